"""Consistency models and mean flows of points: training, sampling, and what they refuse."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers
from configs import points
from experiments.build import frozen, pipelines, tasks
from experiments.build.components import diffusion, networks, optimization
from experiments.build.fields import configs
from experiments.commands import likelihood, plan, train
from experiments.commands.request import Request
from experiments.training.state import abstract_state, init_state
from experiments.training.step import make_train_step

X = np.random.RandomState(0).randn(32, 2).astype(np.float32)


def config(variant, **changes):
    made = points.get_config(variant)
    made.model.update(nf=8, num_res_blocks=1)
    made.optim.warmup = 0
    made.training.update(n_iters=2, batch_size=32, log_freq=1, eval_freq=2, at_end=())
    made.training.update(snapshot_freq=1000, snapshot_freq_for_preemption=2)
    made.sampling.update(n_samples=8, batch_size=8)
    made.eval.update(batch_size=2000, rtol=0.1, atol=0.1)
    for field, value in changes.items():
        section, name = field.split("__")
        made[section][name] = value
    return made


def trained(made, n_steps=1):
    """The state after some steps, and their losses."""
    task, mesh = tasks.task(made), optimization.mesh(made)
    state = init_state(task, made.seed, abstract_state(task, made.seed, mesh))
    step = jax.jit(make_train_step(task, optimization.training(made), mesh))
    losses = []
    for _ in range(n_steps):
        state, metrics = step(state, X[None], shared=task.shared)
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of tiny trained runs: a teacher of the mixture, and a model of each kind."""
    root, made = tmp_path_factory.mktemp("few_steps"), {}
    teacher = config("mixture", training__sde="edm", model__parametrization="edm")
    teacher.model.sigma_data = 1.0
    for name, each in (
        ("teacher", teacher),
        ("consistency", config("consistency")),
        ("meanflow", config("meanflow")),
    ):
        made[name] = root / name
        train.run(Request(each, made[name]))
    return made


@pytest.mark.thorough
@pytest.mark.parametrize("variant", ["consistency", "meanflow"])
def test_a_trained_run_draws_the_same_samples_whatever_the_batch(runs, variant):
    model = pipelines.load(runs[variant])
    assert type(model.sampler).__name__.lower() == variant
    together = model.sample(8, seed=3)
    alone = model.replace(batch_size=4).sample(8, seed=3)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    for n in (2, 4):
        sampler = samplers.create(model.sampler.needs, n_steps=n)
        assert np.isfinite(model.sample(8, sampler=sampler)).all()


@pytest.mark.thorough
def test_what_follows_a_score_refuses_a_consistency_model(runs, capsys):
    model = pipelines.load(runs["consistency"])
    changes = "config.objective.name='denoising'"
    for use in (
        lambda: model.log_likelihood(X),
        lambda: model.encode(X),
        lambda: model.decode(X),
        lambda: model.check_diffuses_data("the study"),
        lambda: likelihood.run(Request(configs.load(runs["consistency"]), runs["consistency"])),
    ):
        with pytest.raises(ValueError, match=changes):
            use()
    with pytest.raises(ValueError, match="method to 'consistency'"):
        pipelines.load(runs["consistency"], overrides={"sampling.method": "edm"})


@pytest.mark.thorough
def test_a_mean_flow_has_a_score_too(runs):
    model = pipelines.load(runs["meanflow"])
    assert np.isfinite(model.log_likelihood(X).log_prob).all()
    assert np.isfinite(model.sample(8, sampler="edm")).all()
    velocities, t = model.score_fn(), jnp.full(len(X), 0.6)
    score = velocities(X, t)
    flow = model.sde.flow_drift(X, t, score)
    np.testing.assert_allclose(velocities.average(X, t, t), flow, rtol=1e-3, atol=1e-3)


@pytest.mark.thorough
def test_samplers_of_few_steps_refuse_score_models(runs):
    for name in samplers.FEW_STEPS:
        with pytest.raises(ValueError, match="to one that follows a score, such as 'edm'"):
            pipelines.load(runs["teacher"], overrides={"sampling.method": name})


@pytest.mark.thorough
def test_a_mean_flow_sees_the_vector_and_the_interval():
    made = config("meanflow")
    made.model.vector_dim = 2
    model = networks.noise_model(made, diffusion.sde(made), (2,))
    assert model.network.vector_dim == 3
    params = model.init(jax.random.key(0), (1, 2))
    vectors, (r, t) = jnp.ones((4, 2)), (jnp.full(4, at) for at in (0.2, 0.7))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    average = lambda r, v: model.score_fn(params, vectors=v).average(X[:4], r, t)  # noqa: E731
    base = average(r, vectors)
    assert np.abs(base - average(0.5 * r, vectors)).max() > 1e-4
    assert np.abs(base - average(r, 0 * vectors)).max() > 1e-4


@pytest.mark.thorough
@pytest.mark.parametrize("parametrization", ["velocity", "edm", "v", "epsilon"])
def test_the_velocity_at_equal_times_is_that_of_the_score(parametrization):
    made = config("meanflow", model__parametrization=parametrization)
    model = networks.noise_model(made, diffusion.sde(made), (2,))
    params = jax.tree.map(lambda leaf: leaf + 0.1, model.init(jax.random.key(0), (1, 2)))
    velocities, t = model.score_fn(params), jnp.linspace(0.1, 0.9, 32)
    expected = model.sde.flow_drift(X, t, velocities(X, t))
    np.testing.assert_allclose(velocities.average(X, t, t), expected, rtol=2e-3, atol=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("n_microbatches", [1, 2])
@pytest.mark.parametrize("variant", ["consistency", "meanflow"])
def test_the_loss_is_the_same_in_microbatches(variant, n_microbatches):
    made = config(variant, objective__stratified=True)
    whole = trained(made)[1]
    made.training.n_microbatches = n_microbatches
    shaped = X.reshape(n_microbatches, -1, 2)
    task, mesh = tasks.task(made), optimization.mesh(made)
    state = init_state(task, made.seed, abstract_state(task, made.seed, mesh))
    _, metrics = jax.jit(make_train_step(task, optimization.training(made), mesh))(state, shaped)
    np.testing.assert_allclose(metrics["loss"], whole[0], rtol=1e-4)


@pytest.mark.thorough
def test_the_levels_come_closer_during_training():
    """With the last stage from the start, the first loss differs, and that of a later step not."""
    slow, last = (
        trained(config("consistency", objective__first_stage=first, objective__stage_steps=1000))[1]
        for first in (0, 4)
    )
    assert slow[0] != last[0]
    again = trained(config("consistency", objective__first_stage=4, objective__stage_steps=1))[1]
    assert again == last


@pytest.mark.thorough
def test_a_teacher_gives_the_other_points_of_a_path(runs, tmp_path):
    made = config("consistency", objective__first_stage=4)
    alone = trained(made)[1]
    made.objective.teacher = str(runs["teacher"])
    assert trained(made)[1] != alone
    train.run(Request(made, tmp_path / "student"))
    record = json.loads((tmp_path / "student" / "teacher.json").read_text())
    assert record["step"] == 2


@pytest.mark.thorough
def test_compiled_steps_hold_no_weights_of_a_teacher(runs):
    """They are arguments, restored before anything is traced."""
    made = config("consistency", objective__teacher=str(runs["teacher"]))
    task, mesh = tasks.task(made), optimization.mesh(made)
    state = abstract_state(task, made.seed, mesh)
    step = make_train_step(task, optimization.training(made), mesh)
    program = jax.make_jaxpr(step)(state, X[None], shared=task.shared)
    most = max(leaf.size for leaf in jax.tree.leaves(task.shared))
    assert all(np.size(value) < most for value in program.consts)
    assert task.held_out_shared == {}  # the held-out loss needs no teacher


@pytest.mark.thorough
def test_a_training_with_a_teacher_has_a_plan(runs, tmp_path, capsys):
    plan.run(Request(config("consistency", objective__teacher=str(runs["teacher"])), tmp_path))
    assert "in all" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_trained_run_is_where_tuning_begins(runs, tmp_path):
    made = config("consistency", training__init_from=str(runs["teacher"]), training__n_iters=1)
    made.optim.lr = 1e-12
    train.run(Request(made, tmp_path / "tuned"))
    theirs, own = (pipelines.load(path).params for path in (runs["teacher"], tmp_path / "tuned"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), theirs, own)


@pytest.mark.thorough
def test_a_mean_flow_may_begin_with_a_flow(tmp_path, caplog):
    flow = config("mixture", training__sde="flow", model__parametrization="velocity")
    train.run(Request(flow, tmp_path / "flow"))
    made = config("meanflow", training__init_from=str(tmp_path / "flow"), training__n_iters=1)
    made.optim.lr = 1e-12
    with caplog.at_level("INFO"):
        train.run(Request(made, tmp_path / "tuned"))
    assert "made anew: vector_embedding" in caplog.text
    theirs, own = (pipelines.load(tmp_path / name).params for name in ("flow", "tuned"))
    kept = {name: own[name] for name in theirs}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), dict(theirs), kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective__teacher": "no/such/run"}, "there is no folder no/such/run"),
        ({"training__sde": "vpsde"}, "the SDE of the teacher in .* is EDM.*, here VP"),
        ({"data__dataset": "moons", "model__class_conditional": True}, "class_conditional is True"),
        (
            {"model__vector_dim": 2, "model__name": "mlp"},
            "vector_dim is 2, and None in the teacher",
        ),
    ],
)
def test_a_teacher_of_other_data_is_refused(runs, changes, message):
    made = config("consistency", objective__teacher=str(runs["teacher"]))
    made.data.num_classes = 2
    for field, value in changes.items():
        section, name = field.split("__")
        made[section][name] = value
    with pytest.raises(ValueError, match=message):
        frozen.teacher(made)


def test_only_training_needs_the_teacher(tmp_path):
    task = tasks.task(config("consistency", objective__teacher=str(tmp_path / "none")))
    jax.eval_shape(task.init, jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"no folder .*none, which config\.objective\.teacher names"
    ):
        task.records()


def test_a_teacher_with_a_source_is_refused(runs, tmp_path):
    theirs = configs.load(runs["teacher"])
    theirs.source.name = "pairs"
    configs.save(theirs, tmp_path)
    with pytest.raises(ValueError, match="was trained with a source or with bridges"):
        frozen.teacher(config("consistency", objective__teacher=str(tmp_path)))


def test_a_teacher_of_another_shape_or_kind_is_refused(runs, tmp_path):
    made = config("consistency", objective__teacher=str(runs["consistency"]))
    with pytest.raises(ValueError, match="has no probability flow of data"):
        frozen.teacher(made)
    other = config("consistency", objective__teacher=str(runs["teacher"]))
    other.data.update(dataset="table", path="x.csv", shape=(3,))
    with pytest.raises(ValueError, match="the shape of data of the teacher"):
        frozen.teacher(other)
    empty = tmp_path / "empty"
    empty.mkdir()
    made.objective.teacher = str(empty)
    with pytest.raises(ValueError, match="empty"):
        frozen.teacher(made)


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("consistency", {"objective__power": 1.0}, "power is 1.0, but .* has no such option"),
        ("meanflow", {"objective__teacher": "x"}, "teacher is 'x', but .* has no such option"),
        ("consistency", {"training__continuous": False}, "is an integral over t: set it to True"),
        ("meanflow", {"model__parametrization": "energy"}, "gives no velocity: take 'velocity'"),
        ("consistency", {"objective__huber": -1.0}, "huber is -1"),
        ("meanflow", {"objective__interval_share": 2.0}, "interval_share is 2"),
    ],
)
def test_impossible_configs_are_refused_before_training(variant, changes, message):
    made = config(variant, **changes)
    with pytest.raises(ValueError, match=message):
        tasks.task(made)
