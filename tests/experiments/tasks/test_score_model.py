import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import weights
from toys import MESH, first_state, options

import models
import samplers
import sde_lib
from configs import digits, points
from experiments.build import data, tasks
from experiments.data.augment import augment
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.pipeline.conditions import ClassLabel, Conditions, Confidence, Image
from experiments.pipeline.pipeline import Pipeline
from experiments.tasks.score_model import ScoreModel
from experiments.training.objective import RAW_IMAGES
from experiments.training.optimizer import Adam
from experiments.training.step import make_train_step
from models import NoiseModel, Preconditioning

NONE = Conditions()
KEYS = {name: jax.random.key(k) for k, name in enumerate(("loss", "dropout", "augment", "labels"))}


class Recorder:
    """A network without weights that keeps its arguments."""

    def __init__(self):
        self.calls = []

    def apply(self, variables, x, labels, train, rngs, **conditions):
        self.calls.append({"x": x, "train": train, **rngs, **conditions})
        return 0.1 * x


def score_model(network, conditions=NONE, shape=(8, 8, 1), augment=0.0, **options):
    """A score model below the door, under VP."""
    model = NoiseModel(network, Preconditioning(sde_lib.VP()))
    about = shape, Scaling(17), samplers.create("euler"), lambda: None, conditions
    loss = lambda *arguments, **more: sde_lib.denoising_score_matching(  # noqa: E731
        *arguments, **options | more
    )
    return ScoreModel(Pipeline(model, None, *about), lambda params: loss, loss, Adam(), augment)


@pytest.mark.thorough
def test_each_sample_has_its_own_stratum_in_every_microbatch():
    task = score_model(Recorder(), shape=(2,), stratified=True, n_strata=8)
    x = jax.random.normal(jax.random.key(5), (8, 2))
    whole, *halves = (
        float(task.loss({}, KEYS, None, rows.start, x[rows], {})[0])
        for rows in (slice(0, 8), slice(0, 4), slice(4, 8))
    )
    assert np.mean(halves) == pytest.approx(whole, rel=1e-5)
    # In one microbatch the first half of the times is the other one's.
    assert halves[0] != pytest.approx(float(task.loss({}, KEYS, None, 4, x[:4], {})[0]), rel=1e-3)


@pytest.mark.thorough
def test_the_network_is_in_training_and_drops_out_by_the_key_for_that():
    network = Recorder()
    score_model(network).loss({}, KEYS, None, 0, jnp.zeros((2, 8, 8, 1)), {})
    assert network.calls[0]["train"]
    assert network.calls[0]["dropout"] is KEYS["dropout"]


@pytest.mark.thorough
def test_classes_are_dropped_each_by_its_own_key():
    """The same ones in one microbatch and in two; confidences stay."""
    network = Recorder()
    task = score_model(network, Conditions((ClassLabel(10), Confidence()), dropout=0.3))
    x, labels = jnp.zeros((512, 2, 2, 1)), np.arange(512) % 10
    sure = (np.arange(512) / 512).astype(np.float32)
    for rows in (slice(0, 512), slice(0, 256), slice(256, 512)):
        conditions = {"class_labels": labels[rows], "confidences": sure[rows]}
        task.loss({}, KEYS, None, rows.start, x[rows], conditions)
        assert set(conditions) == {"class_labels", "confidences"}
    whole, *parts = (call["class_labels"] for call in network.calls)
    parts_sure = [call["confidences"] for call in network.calls[1:]]
    np.testing.assert_array_equal(np.concatenate(parts_sure), sure)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    dropped = np.asarray(whole == -1)
    np.testing.assert_array_equal(whole[~dropped], labels[~dropped])
    assert dropped.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 512))


@pytest.mark.thorough
def test_augmented_images_come_with_their_labels():
    """Images bright on the left: those whose label says so are bright on the right."""
    network = Recorder()
    x = -np.ones((400, 8, 8, 1), np.float32)
    x[:, :, :4] = 1
    task = score_model(network, augment=1e-9)
    task.loss({}, KEYS, None, 0, jnp.asarray(x), {})
    seen, labels = network.calls[0]["x"], np.asarray(network.calls[0]["augment_labels"])
    difference = np.asarray(seen[:, :, 4:].mean((1, 2, 3)) - seen[:, :, :4].mean((1, 2, 3)))
    clear = np.abs(difference) > 0.7
    np.testing.assert_array_equal(difference[clear] > 0, labels[clear, 0] == 1)
    assert labels[:, 0].mean() == pytest.approx(0.5, abs=0.1)
    assert not labels[:, 1:].any()


class Multiple(nn.Module):
    """A network of one weight."""

    @nn.compact
    def __call__(self, x, labels, train=False):
        return self.param("factor", nn.initializers.ones, ()) * x


@pytest.mark.thorough
def test_a_learned_schedule_is_trained_beside_the_network(monkeypatch):
    """Code that knows nothing of it takes its parameters for a part of the network's."""
    monkeypatch.setitem(models.MODELS, "multiple", Multiple)
    config = digits.get_config("vdm")
    config.model.name, config.model.fourier_features, config.optim.warmup = "multiple", (), 0
    config.training.batch_size = 8
    task, images = tasks.task(config), data.images(config).train[None, :8]
    state = first_state(task, config.seed)
    step = jax.jit(make_train_step(task, options(seed=config.seed), MESH))
    after, _ = step(state, images)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).min(), after.params, state.params)
    np.testing.assert_allclose(jax.tree.leaves(moved), config.optim.lr, rtol=0.01)
    assert set(moved) == {"factor", "schedule"}
    score_fn = task.model.model.score_fn(after.params)
    assert score_fn(jnp.ones((2, 8, 8, 1)), jnp.ones(2)).shape == (2, 8, 8, 1)


@pytest.mark.thorough
def test_a_log_variance_is_trained_beside_any_network_and_evaluated_without(monkeypatch):
    """It becomes log E[w r^2]: 0 for Gaussian data in EDM's units, whose network gives 0."""
    monkeypatch.setitem(models.MODELS, "multiple", Multiple)
    config = digits.get_config("edm")
    config.model.name, config.objective.log_variance = "multiple", 32
    config.training.reduce_mean = True
    task = tasks.task(config)
    params = task.init(jax.random.key(0))
    assert set(params) == {"factor", "log_variance"}
    x, adam = 0.75 * jax.random.normal(jax.random.key(1), (64, 8, 8, 1)), optax.adam(0.1)

    def loss(own, key):
        everything = {"factor": jnp.zeros(()), "log_variance": own}
        return task.loss(everything, KEYS | {"loss": key}, None, 0, x, {})[0]

    def descend(state, key):
        own, moments = state
        updates, moments = adam.update(jax.grad(loss)(own, key), moments)
        return (optax.apply_updates(own, updates), moments), None

    own, keys = params["log_variance"], jax.random.split(jax.random.key(2), 100)
    ends = jax.jit(lambda own: jax.lax.scan(descend, (own, adam.init(own)), keys)[0])(own)
    apply = models.LogVariance(32).apply
    labels = jnp.linspace(-3.0, 0.6, 7) / 4  # 1.5 standard deviations of the noise density
    before, after = (apply({"params": each}, labels) for each in (own, ends[0]))
    assert np.abs(before).max() > 0.5
    np.testing.assert_allclose(after, 0, atol=0.15)
    zero = {"factor": jnp.zeros(()), "log_variance": own}
    held_out = task.metrics(zero, jax.random.key(0), (np.full((64, 8, 8, 1), 8, np.uint8), {}), 0)
    assert float(np.mean(held_out["loss"])) < 1  # u plays no part in it


@pytest.mark.thorough
def test_the_log_variance_of_an_edm2_is_its_own():
    config = digits.get_config("edm2")
    config.objective.log_variance = config.model.logvar_channels = 8
    task = tasks.task(config)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    assert "log_variance" not in shapes
    assert models.log_variance.parameters(shapes).keys() == {"logvar_fourier", "logvar_linear"}
    config.model.logvar_channels = 16
    with pytest.raises(ValueError, match=r"log_variance is 8, config\.model\.logvar_channels 16"):
        tasks.task(config)


def edm2():
    """The task of a network of EDM2 with two blocks."""
    config = digits.get_config("edm2")
    config.model.update(nf=8, num_res_blocks=0, ch_mult=(1,), attn_resolutions=())
    return tasks.task(config)


@pytest.mark.thorough
def test_an_edm2_keeps_weights_of_norm_1_in_training():
    """Its own and those of u, but no other part's; gains are free."""
    task = edm2()
    params = weights.drawn(jax.eval_shape(task.init, jax.random.key(0)))
    params |= {"codec": {"kernel": 2 * jnp.ones(1)}, "out_gain": jnp.zeros(())}
    state = task.optimizer.init(params)
    for _ in range(2):  # the learning rate begins at 0
        updates, state = task.optimizer.update(params, state, params)
        params = optax.apply_updates(params, updates)
    own = {name: leaf for name, leaf in params.items() if name != "codec"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(own):
        if path[-1].key == "kernel":
            rms = np.sqrt(np.mean(np.square(leaf), axis=tuple(range(leaf.ndim - 1))))
            np.testing.assert_allclose(rms, 1, rtol=1e-3)
    assert float(params["codec"]["kernel"][0]) == pytest.approx(2, abs=1e-3)
    assert score_model(Recorder()).projection is None


@pytest.mark.thorough
def test_magnitudes_of_activations_are_logged():
    task, images = edm2(), np.random.RandomState(0).randint(0, 17, (6, 8, 8, 1)).astype("u1")
    params = weights.drawn(jax.eval_shape(task.init, jax.random.key(0)))
    found = task.metrics(params, jax.random.key(0), (images, {}), 0)
    blocks = [np.asarray(found[f"magnitude/Block_{k}"]) for k in (0, 1, 2)]
    logged = task.held_out({name: np.asarray(value) for name, value in found.items()})
    means = [float(block.mean()) for block in blocks]
    assert [block.shape for block in blocks] == [(6,)] * 3
    assert (logged["eval_magnitude_min"], logged["eval_magnitude_max"]) == (min(means), max(means))


def test_labels_are_checked_and_records_are_written_before_training(tmp_path):
    images = np.zeros((4, 8, 8, 1), np.uint8)
    labelled = Dataset(images, images, 17, np.arange(4), np.arange(4))
    records = {"other.json": ({"step": 1}, "the other run has changed")}
    task = dataclasses.replace(score_model(Recorder()), n_classes=4, records=lambda: records)
    with pytest.raises(ValueError, match="train data have no labels"):
        task.prepare(Dataset(images, images, 17), tmp_path)
    with pytest.raises(ValueError, match="have 4 classes, but the model has only 3"):
        dataclasses.replace(task, n_classes=3).prepare(labelled, tmp_path)
    more = dataclasses.replace(task, n_classes=6)
    with pytest.raises(
        ValueError, match=r"no training data of the classes 4, 5: .*sampling\.labels"
    ):
        more.prepare(labelled, tmp_path)
    members = Conditions((ClassLabel(6, labels=(0, 3)),))
    drawn = dataclasses.replace(more, model=more.model.replace(conditions=members))
    drawn.prepare(labelled, tmp_path)
    task.prepare(labelled, tmp_path)
    task.prepare(labelled, tmp_path)
    changed = {"other.json": ({"step": 2}, "the other run has changed")}
    with pytest.raises(ValueError, match="the other run has changed"):
        dataclasses.replace(task, records=lambda: changed).prepare(labelled, tmp_path)


@pytest.fixture(scope="module")
def trained():
    """The task of a tiny model of points, its first weights, and the data."""
    config = points.get_config("mixture")
    config.model.nf, config.model.num_res_blocks = 8, 1
    config.sampling.update(method="euler", n_steps=4, batch_size=64)
    config.eval.num_samples = 64
    task, x = tasks.task(config), np.random.RandomState(0).randn(96, 2).astype(np.float32)
    return task, task.init(jax.random.key(0)), Dataset(x, x[:32], None)


@pytest.mark.thorough
def test_reports_are_lines_and_figures_of_the_card(trained, tmp_path, monkeypatch):
    task, params, dataset = trained
    monkeypatch.setattr(data, "images", lambda config: dataset)
    report = task.sample_quality(params, 3, dataset, tmp_path / "run")
    names = {name.partition("(")[0] for name in report.figures}
    distances = {"frechet_distance", "kernel_distance"}
    assert names == distances | {"precision", "recall", "density", "coverage"}
    assert report.lines == [f"{name} {text}" for name, text in report.figures.items()]
    assert all(np.isfinite(float(text.split()[0])) for text in report.figures.values())
    assert task.sample_quality(params, 3, dataset, tmp_path / "run") == report
    lines, figures, _ = task.likelihood(params, 3, dataset, tmp_path / "run")
    assert lines == [f"{name} {text}" for name, text in figures.items()]


def test_a_card_says_what_the_model_is_limited_to():
    plain = score_model(Recorder()).describe()
    assert plain.kind == "diffusion model"
    assert any("uniform noise in each grey level" in limit for limit in plain.limits)
    classes = dataclasses.replace(score_model(Recorder()), n_classes=4).describe()
    assert "It can be asked for a class of 4, and nothing else." in classes.limits


@pytest.mark.thorough
@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_missing_values_have_no_part_in_the_loss(hidden):
    """The network sees 0 in their place and the mask, which hides observed values too."""
    network = Recorder()
    task = score_model(network, shape=(3,))
    model = dataclasses.replace(task.model.model, missing=True)
    scaling = Scaling(None, missing=True)
    task = dataclasses.replace(
        task, model=task.model.replace(model=model, scaling=scaling), hidden_fraction=hidden
    )
    x = jnp.asarray([[1.0, jnp.nan, 2.0], [jnp.nan, 3.0, 4.0]] * 8)
    loss, _ = task.loss({}, KEYS, None, 0, x, {})
    metrics = task.metrics({}, jax.random.key(0), (x, {}), 0)
    trained, held_out = (call["x"] for call in network.calls)
    for seen, share in ((trained, hidden), (held_out, 0.0)):
        values, mask = np.split(np.asarray(seen), 2, axis=1)
        assert (mask <= ~np.isnan(x)).all()
        assert mask.any(axis=1).all()
        assert (values[mask == 0] == 0).all()
        assert (mask.sum() < 32) == bool(share)
    assert np.isfinite(loss)
    assert np.isfinite(metrics["loss"]).all()


@pytest.mark.thorough
def test_augmentation_moves_condition_images_with_the_samples():
    """Images of the data are the samples themselves: they stay so."""
    network = Recorder()
    image = Image((8, 8, 1), Scaling(256, dequantize=False), None, (8, 8, 1))
    task = score_model(network, Conditions((image,)), augment=0.5)
    raw = np.random.RandomState(0).randint(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    x = jnp.asarray(raw / 127.5 - 1, jnp.float32)
    moved, _ = augment(KEYS["augment"], x, 0.5, 0)
    assert np.abs(moved - x).mean() > 0.1
    task.loss({}, KEYS, None, 0, x, {RAW_IMAGES: jnp.asarray(raw)})
    np.testing.assert_allclose(network.calls[0]["images"], moved, atol=1e-4)
