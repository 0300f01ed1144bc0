import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from configs import digits, points
from experiments import data, loop, train, workdir
from experiments.state import TrainState, init_state, load


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
    """SIGTERM in the middle: the next run goes on to the same end."""
    original = data.batches

    def interrupted(*args):
        for k, batch in enumerate(original(*args)):
            if k == 2:
                loop.signal.raise_signal(loop.signal.SIGTERM)
            yield batch

    monkeypatch.setattr(data, "batches", interrupted)
    train.run(tiny(8), tmp_path)
    assert "unscored" not in capsys.readouterr().out
    monkeypatch.setattr(data, "batches", original)
    step, _, _ = final_state(tiny(8), tmp_path)
    assert step == 3
    train.run(tiny(8), tmp_path)
    assert "unscored" in capsys.readouterr().out
    assert [line["step"] for line in workdir.read_metrics(tmp_path)] == list(range(1, 9))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path, quiet, monkeypatch
):
    ordinary = data.to_model_space
    poisoned = tiny(12)

    def poison(config, levels, key, batch, dequantize):
        x = ordinary(config, levels, key, batch, dequantize)
        return jnp.where(jnp.all(batch == batch[0]), jnp.nan, x)

    original = data.batches

    def with_a_bad_batch(*args):
        for k, batch in enumerate(original(*args)):
            yield (np.zeros_like(batch[0]),) if k == 6 else batch

    monkeypatch.setattr(data, "to_model_space", poison)
    monkeypatch.setattr(data, "batches", with_a_bad_batch)
    with pytest.raises(FloatingPointError, match="loss is nan at step 7: stopped"):
        train.run(poisoned, tmp_path)
    step, params, metrics = final_state(poisoned, tmp_path)
    assert step == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert metrics[-1]["step"] == 6


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
    train_step = jax.jit(train.make_train_step(config, model, dataset.levels))
    return config, train_step, init_state(config, model), dataset.train


def test_the_average_is_that_of_its_recurrence(step):
    config, train_step, state, images = step
    average = np.asarray(jax.tree.leaves(state.params)[0])
    for k, batch in zip(range(20), data.batches(images, 0, 8, 0), strict=False):
        state, _ = train_step(state, batch)
        rate = min(config.model.ema_rate, (1 + k) / (10 + k))
        average = rate * average + (1 - rate) * np.asarray(jax.tree.leaves(state.params)[0])
    np.testing.assert_allclose(jax.tree.leaves(state.ema_params)[0], average, rtol=1e-4, atol=1e-7)


def test_steps_differ_in_their_randomness(step):
    """The same batch at the same weights: another loss at another step, the same at the same."""
    _, train_step, state, images = step
    losses = [
        float(train_step(state._replace(step=jnp.array(k)), images[:8])[1]["loss"])
        for k in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


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
    step(state, batch)
    jax.effects_barrier()
    left, right = seen[0][:, :, :4].mean((1, 2, 3)), seen[0][:, :, 4:].mean((1, 2, 3))
    clear = np.abs(left - right) > 0.5
    share = np.mean((right > left)[clear])
    assert share == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / clear.sum()))
