import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from configs import digits, points
from experiments import build
from experiments.commands import train
from experiments.data import data
from experiments.runs import sharding, workdir
from experiments.training import loop
from experiments.training.state import TrainState, init_state, load

PLACEMENT = sharding.of_batch(sharding.make_mesh(digits.get_config()), axis=1)


def tiny(n_iters):
    """A few steps of a network with dropout on digits, saved and logged at every other step."""
    config = digits.get_config()
    config.model.nf, config.model.ch_mult, config.model.dropout = 8, (1,), 0.2
    config.model.attn_resolutions = ()
    config.data.random_flip = True
    config.training.batch_size = 8
    config.training.n_iters = n_iters
    config.training.log_freq = 1
    config.training.snapshot_freq_for_preemption = 2
    config.optim.warmup = 2
    return config


@pytest.fixture
def quiet(monkeypatch):
    """No pictures or likelihoods at the end of a run."""
    monkeypatch.setattr(train.likelihood, "bits_per_dim", lambda *_: "unscored")
    monkeypatch.setattr(train.sample, "save_pictures", lambda *_: [])
    monkeypatch.setattr(train.sample, "save_loss_curve", lambda *_: "no curve")


def quickly_compiled(train_step):
    return jax.jit(train_step, compiler_options={"xla_backend_optimization_level": 0})


def final_state(config, folder):
    _, params, step = load(config, folder)
    return step, params, workdir.read_metrics(folder)


def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path, quiet):
    train.run(tiny(5), tmp_path / "whole")
    train.run(tiny(3), tmp_path / "parts")
    train.run(tiny(5), tmp_path / "parts")
    whole, parts = (final_state(tiny(5), tmp_path / name) for name in ("whole", "parts"))
    assert whole[0] == parts[0] == 5
    assert whole[2] == parts[2]
    jax.tree.map(np.testing.assert_array_equal, whole[1], parts[1])
    card = (tmp_path / "parts" / "checkpoints" / "5" / "model_card.md").read_text()
    assert " in 5 steps" in card
    assert card.endswith("| test bits/dim | unscored | 5 |\n")


@pytest.mark.slow
def test_a_stopped_run_saves_and_says_so(tmp_path, quiet, monkeypatch, capsys):
    """SIGTERM between two lines of metrics, where an evaluation is due: nothing of them is lost."""

    def config():
        config = tiny(8)
        config.training.log_freq, config.training.eval_freq = 4, 3
        config.training.snapshot_freq_for_preemption = 100
        config.eval.batch_size = 8
        return config

    train.run(config(), tmp_path / "whole")
    original = data.batches

    def interrupted(*args):
        for k, batch in enumerate(original(*args)):
            if k == 2:
                loop.signal.raise_signal(loop.signal.SIGTERM)
            yield batch

    monkeypatch.setattr(data, "batches", interrupted)
    capsys.readouterr()
    train.run(config(), tmp_path / "parts")
    assert "unscored" not in capsys.readouterr().out
    monkeypatch.setattr(data, "batches", original)
    step, _, metrics = final_state(config(), tmp_path / "parts")
    assert step == 3
    assert metrics == []

    def crashing(*args):
        yield next(original(*args))
        raise RuntimeError("a crash")

    monkeypatch.setattr(data, "batches", crashing)
    with pytest.raises(RuntimeError, match="a crash"):  # once the evaluation is made up for
        train.run(config(), tmp_path / "parts")
    monkeypatch.setattr(data, "batches", original)
    train.run(config(), tmp_path / "parts")
    assert "unscored" in capsys.readouterr().out
    whole, parts = (final_state(config(), tmp_path / name)[2] for name in ("whole", "parts"))
    assert parts == whole
    assert [line["step"] for line in whole] == [3, 4, 6, 8]


def poison(monkeypatch, bad):
    """Makes the batches of the steps for which bad(step) is true not finite."""
    to_model_space, batches = data.to_model_space, data.batches

    def marked(config, levels, key, batch, dequantize):
        x = to_model_space(config, levels, key, batch, dequantize)
        return jnp.where(jnp.all(batch == 17), jnp.nan, x)

    def with_bad_ones(values, seed, shape, start, placement):
        stream = batches(values, seed, shape, start, placement)
        for step, (batch, told) in enumerate(stream, start + 1):
            yield jnp.full_like(batch, 17) if bad(step) else batch, told

    monkeypatch.setattr(data, "to_model_space", marked)
    monkeypatch.setattr(data, "batches", with_bad_ones)


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, quiet, monkeypatch, caplog):
    poison(monkeypatch, lambda step: step in (4, 7))
    config = tiny(8)
    config.data.resident_bytes = 0
    config.training.log_freq, config.training.max_skipped = 4, 2
    config.training.snapshot_freq_for_preemption = 1
    train.run(config, tmp_path)
    assert [row["skipped"] for row in workdir.read_metrics(tmp_path) if "loss" in row] == [1, 1]
    assert "step 7 is skipped" in caplog.text
    before, after, later = (load(config, tmp_path, step)[1] for step in (6, 7, 8))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), after, later)))


@pytest.mark.slow
def test_new_weights_that_are_not_finite_are_not_taken(step):
    """0 / 0 in Adam, where a gradient is zero, as those behind a layer of zeros are at first."""
    config, _, state, images = step
    config = config.copy_and_resolve_references()
    config.optim.eps = 0.0
    train_step = quickly_compiled(train.make_train_step(config, models.create(config), 17))
    after, metrics = train_step(state, images[None, :8])
    assert np.isfinite(metrics["grad_norm"])
    assert not np.isfinite(metrics["param_norm"])
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    assert int(after.step) == int(state.step) + 1


@pytest.mark.slow
def test_many_such_steps_in_a_row_stop_the_run_and_keep_the_last_good_weights(
    tmp_path, quiet, monkeypatch
):
    poison(monkeypatch, lambda step: step > 3)
    train.run(tiny(3), tmp_path / "good")
    config = tiny(20)
    config.data.resident_bytes = 0
    config.training.max_skipped = 4
    config.training.snapshot_freq_for_preemption = 3
    with pytest.raises(FloatingPointError, match="gradient from step 4 to 7: stopped"):
        train.run(config, tmp_path / "bad")
    with pytest.raises(FloatingPointError, match="from step 10 to 13"):
        train.run(config, tmp_path / "bad")
    good, last = (load(config, tmp_path / name)[1] for name in ("good", "bad"))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good))
    jax.tree.map(np.testing.assert_array_equal, good, last)


@pytest.mark.slow
def test_the_loss_goes_down(tmp_path, quiet):
    config = points.get_config("moons")
    config.training.n_iters, config.training.log_freq = 400, 100
    train.run(config, tmp_path)
    losses = [line["loss"] for line in workdir.read_metrics(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.fixture(scope="module")
def step():
    """A compiled train step, a state for it, and data."""
    config = tiny(3)
    model, dataset = models.create(config), data.load(config)
    train_step = quickly_compiled(train.make_train_step(config, model, dataset.levels))
    return config, train_step, init_state(config, model), dataset.train


def test_the_average_is_that_of_its_recurrence(step):
    config, train_step, state, images = step
    average = np.asarray(jax.tree.leaves(state.params)[0])
    for k, batch in zip(range(20), data.batches(images, 0, (1, 8), 0, PLACEMENT), strict=False):
        state, _ = train_step(state, batch)
        rate = min(config.model.ema_rate, (1 + k) / (10 + k))
        average = rate * average + (1 - rate) * np.asarray(jax.tree.leaves(state.params)[0])
    np.testing.assert_allclose(jax.tree.leaves(state.ema_params)[0], average, rtol=1e-4, atol=1e-7)


class Multiple(nn.Module):
    """The least network that there is."""

    @nn.compact
    def __call__(self, x, labels, train=False):
        return self.param("factor", nn.initializers.ones, ()) * x


def test_a_learned_schedule_is_trained_beside_the_network():
    """To all who do not know of it, its state is the network's parameters."""
    config, model = digits.get_config("vdm"), Multiple()
    config.training.batch_size, config.optim.warmup = 8, 0
    train_step = quickly_compiled(train.make_train_step(config, model, 17))
    state = init_state(config, model)
    after, _ = train_step(state, data.load(config).train[None, :8])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).min(), after.params, state.params)
    np.testing.assert_allclose(jax.tree.leaves(moved), config.optim.lr, rtol=0.01)
    assert set(moved) == {"factor", "schedule"}
    score_fn = models.score_fn(config, build.make_sde(config), model, after.params)
    assert score_fn(jnp.ones((2, 8, 8, 1)), jnp.ones(2)).shape == (2, 8, 8, 1)


def test_steps_differ_in_their_randomness(step):
    """The same batch at the same weights: another loss at another step, the same at the same."""
    _, train_step, state, images = step
    losses = [
        float(train_step(state._replace(step=jnp.array(k)), images[None, :8])[1]["loss"])
        for k in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_microbatches_change_nothing_but_the_memory():
    """Also where each sample has a stratum of t in the whole batch."""
    config = tiny(1)
    config.model.dropout = 0.0
    model, dataset = models.create(config), data.load(config)
    before, after = init_state(config, model), []
    for n in (1, 2):
        config.training.n_microbatches = n
        train_step = quickly_compiled(train.make_train_step(config, model, dataset.levels))
        after.append(train_step(before, dataset.train[:8].reshape(n, 8 // n, 8, 8, 1)))
    (whole, metrics), (parts, same) = after
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5), metrics, same)
    moments = [state.opt_state[1][0].mu for state in (whole, parts)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=2e-4, atol=1e-6), *moments)


def test_a_batch_that_the_microbatches_do_not_divide_is_refused(tmp_path):
    config = tiny(1)
    config.training.n_microbatches = 3
    with pytest.raises(ValueError, match="batch_size is 8: it must be a multiple of 3"):
        train.run(config, tmp_path)


def test_loading_needs_a_trained_run(tmp_path):
    with pytest.raises(ValueError, match="train first"):
        load(tiny(1), tmp_path)


def test_flips_mirror_the_images_left_to_right():
    """Images bright on the left: half of what the network sees is bright on the right."""
    config = tiny(1)
    seen = []

    class Recorder:
        def apply(self, variables, x, labels, train, rngs):
            jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
            return x * variables["params"]

    batch = np.zeros((400, 8, 8, 1), np.uint8)
    batch[:, :, :4] = 16  # bright on the left
    config.training.importance_sampling = config.training.likelihood_weighting = False
    recorder = Recorder()
    step = train.make_train_step(config, recorder, 17)  # pyright: ignore
    params = jnp.ones(())
    state = TrainState(
        jnp.array(0), params, params, train.build.make_optimizer(config).init(params)
    )
    step(state, batch[None])
    jax.effects_barrier()
    left, right = seen[0][:, :, :4].mean((1, 2, 3)), seen[0][:, :, 4:].mean((1, 2, 3))
    clear = np.abs(left - right) > 0.5
    share = np.mean((right > left)[clear])
    assert share == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / clear.sum()))


class Linear(nn.Module):
    """A network of two weights, of which `root` has no finite slope at 0; it knows all labels."""

    num_classes: int = 10
    augment_dim: int = 9
    label_confidence: bool = False

    @nn.compact
    def __call__(
        self, x, labels, train=False, class_labels=None, augment_labels=None, confidences=None
    ):
        weight, root = (self.param(n, nn.initializers.zeros, ()) for n in ("weight", "root"))
        if not self.is_initializing():
            conditions = class_labels, augment_labels, confidences
            jax.debug.callback(self.record, x, *conditions, ordered=True)
        classes = 0.0 if class_labels is None else class_labels[:, None, None, None]
        return weight * x + jnp.sqrt(root) + 0.01 * weight * classes

    def record(self, *seen):
        SEEN.append(jax.tree.map(np.asarray, seen))


SEEN = []  # by calls of Linear


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setitem(models.MODELS, "linear", Linear)
    SEEN.clear()
    config = tiny(3)
    config.model.name = "linear"
    config.data.random_flip = False
    config.optim.warmup = 0
    return config


def steps(config, n, batch, **told):
    """The states after 0, ..., n steps on one batch, and the metrics of the last."""
    train_step = quickly_compiled(train.make_train_step(config, models.create(config), 17))
    state, metrics = init_state(config, models.create(config)), {}
    states = [state]
    for _ in range(n):
        state, metrics = train_step(state, batch, told)
        states.append(state)
    jax.effects_barrier()
    return states, metrics


IMAGES = np.random.RandomState(0).randint(17, size=(1, 8, 8, 8, 1)).astype(np.uint8)


@pytest.mark.parametrize("rampup", [0.0, 0.5])
def test_the_average_has_its_half_life(linear, rampup):
    """In images, of 8 a step; with rampup 0.5, no more than half of those seen: 0, 4, 8, 12."""
    linear.optim.nan_to_num = True
    linear.model.ema_halflife, linear.model.ema_rampup = 10.0, rampup
    states, _ = steps(linear, 4, IMAGES)
    average = 0.0
    for state, ramped in zip(states[1:], (0, 4, 8, 12), strict=True):
        rate = 0.5 ** (8 / max(min(10, ramped) if rampup else 10, 1e-8))
        average = rate * average + (1 - rate) * float(state.params["weight"])
        assert float(state.ema_params["weight"]) == pytest.approx(average, rel=1e-5)
    assert average != 0


def test_gradients_that_are_not_finite_are_skipped_or_replaced(linear):
    (before, after), metrics = steps(linear, 1, IMAGES)
    assert not np.isfinite(metrics["grad_norm"])
    assert after.params == before.params
    linear.optim.nan_to_num = True
    (_, after), metrics = steps(linear, 1, IMAGES)
    assert float(metrics["grad_norm"]) == pytest.approx(train.HUGE, rel=1e-3)
    assert abs(float(after.params["root"])) == pytest.approx(linear.optim.lr, rel=1e-3)


def test_classes_are_dropped_each_by_its_own_key(linear):
    linear.model.class_conditional, linear.model.label_dropout = True, 0.3
    linear.data.num_classes, linear.training.batch_size = 10, 512
    linear.model.label_confidence = True
    images, labels = np.zeros((512, 8, 8, 1), np.uint8), np.arange(512) % 10
    sure = (np.arange(512) / 512).astype(np.float32)
    for n in (1, 2):
        linear.training.n_microbatches = n
        shape = n, 512 // n
        told = {"class_labels": labels.reshape(shape), "confidences": sure.reshape(shape)}
        steps(linear, 1, images.reshape(*shape, 8, 8, 1), **told)
    whole, *parts = (classes for _, classes, *_ in SEEN)
    np.testing.assert_array_equal(np.concatenate([seen[-1] for seen in SEEN[1:]]), sure)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    dropped = whole == -1
    np.testing.assert_array_equal(whole[~dropped], labels[~dropped])
    assert dropped.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 512))


def test_augmented_images_come_with_their_labels(linear):
    """Images bright on the left: those whose label says so are bright on the right."""
    linear.data.augment, linear.model.augment_dim = 1e-9, 9
    linear.training.importance_sampling = linear.training.likelihood_weighting = False
    batch = np.zeros((1, 400, 8, 8, 1), np.uint8)
    batch[:, :, :, :4] = 16
    steps(linear, 1, batch)
    x, _, labels, _ = SEEN[0]
    difference = x[:, :, 4:].mean((1, 2, 3)) - x[:, :, :4].mean((1, 2, 3))
    clear = np.abs(difference) > 0.7
    np.testing.assert_array_equal(difference[clear] > 0, labels[clear, 0] == 1)
    assert labels[:, 0].mean() == pytest.approx(0.5, abs=0.1)
    assert not labels[:, 1:].any()


def test_steps_in_one_program_are_the_steps(tmp_path, quiet, monkeypatch):
    """A run that begins with programs of 1 step, goes on with those of 4 and ends between two."""
    config, sizes = points.get_config("moons"), []
    config.model.nf, config.training.batch_size = 8, 64
    config.training.log_freq = config.training.snapshot_freq_for_preemption = 4

    def counted(program, _):
        program = quickly_compiled(program)
        return lambda *inputs: (sizes.append(len(inputs) - 2), program(*inputs))[1]

    def run(folder, n_iters, steps_per_jit, resident_bytes):
        config.training.n_iters, config.training.steps_per_jit = n_iters, steps_per_jit
        config.data.resident_bytes = resident_bytes
        train.run(config, tmp_path / folder)
        return final_state(config, tmp_path / folder)

    monkeypatch.setattr(train, "compiled", counted)
    step, params, metrics = run("one", 10, 1, 0)
    run("four", 2, 1, 2**30)
    assert sizes == 12 * [1]
    steps_of_four, params_of_four, metrics_of_four = run("four", 10, 4, 2**30)
    assert sizes[12:] == [2, 4, 2]
    assert steps_of_four == step == 10
    assert [line["step"] for line in metrics] == [4, 8, 10]
    for line, other in zip(metrics_of_four[-2:], metrics[-2:], strict=True):
        assert line == pytest.approx(other, rel=1e-5)
    for leaf, other in zip(*map(jax.tree.leaves, (params_of_four, params)), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-7)


def test_periods_that_end_within_a_program_are_refused(tmp_path):
    config = tiny(1)
    config.training.steps_per_jit, config.training.eval_freq = 4, 6
    message = r"log_freq = 1, .*eval_freq = 6, .*preemption = 2: with .*steps_per_jit = 4, give mul"
    with pytest.raises(ValueError, match=message):
        train.run(config, tmp_path)
    config.training.steps_per_jit = 0
    with pytest.raises(ValueError, match="steps_per_jit is 0: it must be at least 1"):
        train.run(config, tmp_path)


def test_a_class_conditional_model_trains_on_labelled_data_alone(linear, tmp_path, quiet):
    linear.model.class_conditional = True
    linear.optim.nan_to_num = True
    linear.training.eval_freq, linear.eval.batch_size = 3, 8
    train.run(linear, tmp_path)
    assert [line["step"] for line in workdir.read_metrics(tmp_path)] == [1, 2, 3, 3]
    assert all(classes.min() >= 0 and classes.max() < 10 for _, classes, *_ in SEEN)
    linear.data.num_classes = 9
    with pytest.raises(ValueError, match="have 10 classes, but the model has only 9"):
        train.run(linear, tmp_path / "fewer")
