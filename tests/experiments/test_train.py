import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from configs import digits, points
from experiments import data, loop, sharding, train, workdir
from experiments.state import TrainState, init_state, load

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
        for step, (batch,) in enumerate(stream, start + 1):
            yield (jnp.full_like(batch, 17) if bad(step) else batch,)

    monkeypatch.setattr(data, "to_model_space", marked)
    monkeypatch.setattr(data, "batches", with_bad_ones)


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, quiet, monkeypatch, caplog):
    poison(monkeypatch, lambda step: step in (4, 7))
    config = tiny(8)
    config.training.log_freq, config.training.max_skipped = 4, 2
    config.training.snapshot_freq_for_preemption = 1
    train.run(config, tmp_path)
    assert [row["skipped"] for row in workdir.read_metrics(tmp_path) if "loss" in row] == [1, 1]
    assert "step 7 is skipped" in caplog.text
    before, after, later = (load(config, tmp_path, step)[1] for step in (6, 7, 8))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), after, later)))


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


def test_many_such_steps_in_a_row_stop_the_run_and_keep_the_last_good_weights(
    tmp_path, quiet, monkeypatch
):
    poison(monkeypatch, lambda step: step > 3)
    train.run(tiny(3), tmp_path / "good")
    config = tiny(20)
    config.training.max_skipped = 4
    config.training.snapshot_freq_for_preemption = 3
    with pytest.raises(FloatingPointError, match="gradient from step 4 to 7: stopped"):
        train.run(config, tmp_path / "bad")
    with pytest.raises(FloatingPointError, match="from step 10 to 13"):
        train.run(config, tmp_path / "bad")
    good, last = (load(config, tmp_path / name)[1] for name in ("good", "bad"))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good))
    jax.tree.map(np.testing.assert_array_equal, good, last)


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
