"""Training, samples and likelihoods with config.model.dtype = "bfloat16"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_lib
from configs import digits
from experiments.build import data, pipelines, tasks
from experiments.build.components import optimization
from experiments.data import batches
from experiments.training.state import abstract_state, init_state
from experiments.training.step import make_batches, make_train_step

N_STEPS = 40


def make_config(dtype):
    config = digits.get_config("vp_score_sde")
    config.model.update(nf=8, ch_mult=(1,), num_res_blocks=0, attn_resolutions=(8,), dtype=dtype)
    config.training.batch_size, config.training.n_iters = 32, N_STEPS
    config.optim.warmup = 10
    config.sampling.method, config.sampling.n_steps = "heun", 10
    return config


@pytest.fixture(scope="module")
def runs():
    """The losses of each type, and its model with the averaged weights of float32."""
    trained = {dtype: train(make_config(dtype)) for dtype in ("float32", "bfloat16")}
    params = trained["float32"][1]
    return {
        dtype: (losses, pipelines.untrained(make_config(dtype)).replace(params=params))
        for dtype, (losses, _) in trained.items()
    }


def train(config):
    """The losses, and the averaged weights; the initial weights are the same for all types."""
    task, training, mesh = (
        tasks.task(config),
        optimization.training(config),
        optimization.mesh(config),
    )
    state = init_state(task, config.seed, abstract_state(task, config.seed, mesh))
    values = data.dataset(config).train, {}
    losses, step = [], jax.jit(make_train_step(task, training, mesh))
    for (resident, _), indices in make_batches(values, training, mesh, 0):
        batch, conditions = batches.fetch(resident, indices)
        state, metrics = step(state, batch, conditions)
        losses.append(float(metrics["loss"]))
    return np.array(losses), state.ema_params


@pytest.mark.slow
def test_training_curves_agree(runs):
    """Measured: to 4e-4, while the loss falls by 40%."""
    (exact, _), (losses, _) = runs.values()
    assert exact[-10:].mean() < 0.7 * exact[0]
    np.testing.assert_allclose(losses, exact, rtol=2e-3)
    assert (losses != exact).any()


@pytest.mark.slow
def test_samples_of_the_same_noise_agree_to_1_percent(runs):
    """Measured: to 0.2%."""
    exact, half = (model.sample(8) for _, model in runs.values())
    assert 0 < np.std(half - exact) < 0.01 * np.std(exact)


@pytest.mark.slow
def test_likelihoods_are_those_of_float32_bit_for_bit(runs, monkeypatch):
    """A single call of the score stands for the solver, which would take long to compile."""

    def log_likelihood(key, sde, score_fn, x, *_):
        values = score_fn(x, np.full(len(x), 0.5, "f4")).sum((1, 2, 3))
        return sde_lib.LogLikelihood(values, latent=x, nfe=jnp.array(1))

    monkeypatch.setattr(sde_lib, "log_likelihood", log_likelihood)
    bits = [model.bits_per_dim(model.dataset().test) for _, model in runs.values()]
    np.testing.assert_array_equal(bits[0].each, bits[1].each)
