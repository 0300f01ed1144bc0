"""Training, samples and likelihoods with config.model.dtype = "bfloat16"."""

import jax
import numpy as np
import pytest

import models
import sde_lib
from configs import digits
from experiments import build
from experiments.commands import train
from experiments.data import data
from experiments.evaluation import likelihood
from experiments.runs import sharding
from experiments.training import state

N_STEPS = 40
QUICK = {"xla_backend_optimization_level": 0}  # to compile


def make_config(dtype):
    config = digits.get_config()
    config.model.update(nf=8, ch_mult=(1,), num_res_blocks=0, attn_resolutions=(8,), dtype=dtype)
    config.training.batch_size, config.optim.warmup = 32, 10
    config.sampling.method, config.sampling.n_steps = "heun", 10
    return config


@pytest.fixture(scope="module")
def runs():
    """Of each type: the network, its losses, and the averaged weights."""
    config = make_config("float32")
    start = state.init_state(config, models.create(config))
    return {dtype: trained(make_config(dtype), start) for dtype in ("float32", "bfloat16")}


def trained(config, made):
    model, dataset = models.create(config), data.load(config)
    mesh = sharding.make_mesh(config)
    step = train.make_train_step(config, model, dataset.levels, mesh)
    step = jax.jit(step, compiler_options=QUICK)
    shape = (1, config.training.batch_size)
    batches = data.batches((dataset.train,), config.seed, shape, 0, sharding.of_batch(mesh, axis=1))
    losses = []
    for _ in range(N_STEPS):
        made, metrics = step(made, *next(batches))
        losses.append(float(metrics["loss"]))
    return model, np.array(losses), made.ema_params


@pytest.mark.slow
def test_training_curves_agree(runs):
    """Measured: to 4e-4, while the loss falls by 40%."""
    (_, exact, _), (_, losses, _) = runs.values()
    assert exact[-10:].mean() < 0.7 * exact[0]
    np.testing.assert_allclose(losses, exact, rtol=2e-3)
    assert (losses != exact).any()


@pytest.mark.slow
def test_samples_of_the_same_noise_agree_to_1_percent(runs):
    """Measured: to 0.2%."""
    config = make_config("float32")
    sde, sampler = build.make_sde(config), build.make_sampler(config)
    params = runs["float32"][2]

    def samples(model):
        def draw(params):
            score_fn = models.score_fn(config, sde, model, params)
            return sampler(jax.random.key(0), sde, score_fn, (8, 8, 8, 1)).x

        return jax.jit(draw, compiler_options=QUICK)(params)

    exact, half = (samples(runs[dtype][0]) for dtype in ("float32", "bfloat16"))
    assert 0 < np.std(half - exact) < 0.01 * np.std(exact)


@pytest.mark.slow
def test_likelihoods_are_those_of_float32_bit_for_bit(runs, monkeypatch):
    """In place of the solver, which would take long to compile: a single call of the score."""

    def log_likelihood(key, sde, score_fn, x, *_):
        values = score_fn(x, np.full(len(x), 0.5, "f4")).sum((1, 2, 3))
        return sde_lib.LogLikelihood(values, latent=x, nfe=1)

    monkeypatch.setattr(sde_lib, "log_likelihood", log_likelihood)
    bits = []
    for dtype, (model, _, _) in runs.items():
        config = make_config(dtype)
        dataset, params = data.load(config), runs["float32"][2]
        bits.append(likelihood.bits_per_dim(config, model, params, dataset))
    assert bits[0] == bits[1]
