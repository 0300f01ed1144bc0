import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saved_runs

import experiments
from configs import points
from experiments.build import tasks
from experiments.build.fields import sections
from experiments.commands import generate
from experiments.commands.request import Request
from samplers.guidance import Projected

AUTO = "guidance.auto."


def model_config(**changes):
    config = points.get_config("moons")
    config.model.nf, config.model.num_res_blocks = 8, 1
    config.sampling.method, config.sampling.n_steps = "euler", 4
    for name, value in changes.items():
        sections.put(config, name.replace("__", "."), value)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose step 1 is other weights than its step 2."""
    folder = tmp_path_factory.mktemp("run")
    params = saved_runs.save(model_config(), folder, steps=(1,))
    saved_runs.save(model_config(), folder, jax.tree.map(lambda leaf: 0.9 * leaf, params), (2,))
    return folder


def load(folder, **options):
    return experiments.load(folder, overrides={AUTO + k: v for k, v in options.items()})


@pytest.mark.thorough
def test_an_earlier_step_guides_samples_encodings_and_their_inverse(run):
    """The score is s_g + w (s - s_g), in every command that samples."""
    model, guide = experiments.load(run), experiments.load(run, step=1)
    guided = load(run, step=1, weight=3.0)
    x, t = jnp.array([[0.3, -0.2], [1.0, 0.5]]), jnp.array([0.2, 0.7])
    good, bad = (each.score_fn()(x, t) for each in (model, guide))
    found = guided.conditional_score(guided.weights, {})(x, t)
    np.testing.assert_allclose(found, bad + 3 * (good - bad), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(guided.score_fn()(x, t), good)
    sampler, shape = model.sampler, (4, 2)
    by_hand = sampler(model.key, model.sde, lambda x, t: 3 * model.score_fn()(x, t)
                      - 2 * guide.score_fn()(x, t), shape).x  # fmt: skip
    np.testing.assert_allclose(guided.sample(4), by_hand, rtol=1e-3, atol=1e-4)
    z = guided.encode(x)
    assert np.abs(z - model.encode(x)).max() > 1e-3
    np.testing.assert_allclose(guided.decode(z), x, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(
        load(run, step=1).sample(2, guidance=1.0), model.sample(2), rtol=1e-5
    )


@pytest.mark.thorough
def test_another_run_guides_by_its_last_step(run, tmp_path):
    """A network of another size, which is a difference of no condition."""
    saved_runs.save(model_config(model__nf=4), tmp_path)
    guided = load(run, run=str(tmp_path), weight=1.5)
    assert guided.auto is not None
    assert guided.auto.model.network.nf == 4
    assert guided.auto.weight == 1.5
    names = {guided.identity(), load(run, run=str(tmp_path)).identity()}
    assert len(names | {experiments.load(run).identity()}) == 3


@pytest.mark.thorough
def test_schedules_and_updates_are_the_guide_s(run):
    options = {AUTO + "step": 1, "guidance.schedule.name": "interval"}
    options |= {"guidance.schedule.low": 0.5, "guidance.schedule.high": 2.0}
    options |= {"guidance.form.name": "projected", "guidance.form.eta": 0.5}
    guided = experiments.load(run, overrides=options)
    assert guided.auto is not None
    assert guided.auto.form == Projected(0.5)
    assert not guided.classifier_free.schedule.varies
    x, t = jnp.array([[0.3, -0.2], [1.0, 0.5]]), jnp.array([0.02, 0.3])
    change = guided.conditional_score(guided.weights, {})(x, t) - guided.score_fn()(x, t)
    assert not change[0].any()
    assert change[1].any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training__sde": "vesde"}, r"the SDE of the guide model in .* is VE\(.*, here VP"),
        ({"data__dataset": "mixture", "data__centered": False}, "the range of data of the guide"),
        (
            {"model__vector_dim": 3},
            r"conditions of the guide .* is {'model.vector_dim': 3}, here none: set config.guid",
        ),
        (
            {"coupling__name": "assignment", "coupling__group": 8},
            "the guide model, .*, and the model have scores of different kinds",
        ),
        (
            {"model__name": "discriminator", "model__encoder": "mlp"},
            "that is no score model; give the folder of a trained one",
        ),
    ],
)
def test_a_model_of_something_else_cannot_guide(run, tmp_path, changes, words):
    saved_runs.configs.save(model_config(**changes), tmp_path)
    with pytest.raises(ValueError, match=words):
        load(run, run=str(tmp_path))


@pytest.mark.thorough
def test_what_cannot_guide_is_refused(run, tmp_path):
    with pytest.raises(
        ValueError, match=r"is the model itself: set config.guidance.auto.step to an"
    ):
        load(run, step=2)
    with pytest.raises(ValueError, match=r"no checkpoint of step 7: it has \[1, 2\]"):
        load(run, step=7)
    with pytest.raises(ValueError, match=r"auto.weight is 3.0, which does nothing without"):
        load(run, weight=3.0)
    with pytest.raises(ValueError, match=r"auto.weight is -1.0"):
        load(run, step=1, weight=-1.0)
    with pytest.raises(ValueError, match=r"form.name is 'rescale', which does nothing without"):
        experiments.load(run, overrides={"guidance.form.name": "rescale"})
    config = model_config(guidance__auto__step=1)
    with pytest.raises(ValueError, match=r"not from a run with checkpoints: give config.guidance"):
        experiments.build.guidance.auto(config, None, None, None)
    with pytest.raises(ValueError, match=r"leave it out of mode train"):
        tasks.task(config).records()
    config = model_config(guidance__auto__run=str(tmp_path / "nowhere"))
    with pytest.raises(
        ValueError, match=r"there is no folder .*nowhere, which config.guidance.auto"
    ):
        experiments.build.guidance.auto(config, None, None, None)
    with pytest.raises(
        ValueError, match=r"sets Autoguidance, but --mode=generate draws samples wit"
    ):
        generate.run(Request(model_config(guidance__auto__step=1), run))
