"""Tests of codecs in closed form: a Gaussian encoder and decoder, and a flow."""

import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import sde_lib
from experiments.pipeline.codec import FIRST_LOG_VARIANCE, Coder

SDE = sde_lib.GeometricVP(variance_min=0.01)
STD = 0.5  # of x given z, in the decoder z -> N(z, STD^2)
KEY = jax.random.key(0)


def coder(mean_factor, variance, levels=None) -> Any:
    """An encoder x -> N(mean_factor x, variance) and the decoder z -> N(z, STD^2)."""

    def apply(variables, x, method):
        mean, squared = (mean_factor * x, variance) if method == "encode" else (x, STD**2)
        output = mean, jnp.full_like(x, math.log(squared) - FIRST_LOG_VARIANCE)
        return output if method == "encode" else jnp.concatenate(output, axis=-1)

    network: Any = SimpleNamespace(apply=apply)
    return Coder(network, (3,), (-1.0, 1.0), levels)


def log_normal(x, std):
    return stats.norm.logpdf(x, 0, std).sum(axis=1)


def test_with_the_exact_posterior_every_draw_has_the_exact_likelihood():
    """z ~ N(0, 1) and x | z ~ N(z, STD^2): the posterior at train_t_min has a closed form."""
    x = np.random.RandomState(0).randn(7, 3).astype(np.float32)
    alpha, sigma = 0.99**0.5, 0.1
    factor, variance = 1 / (1 + STD**2), STD**2 / (1 + STD**2)
    exact = coder(factor / alpha, (variance - sigma**2) / alpha**2)
    encoded = exact.encode({}, SDE, KEY, jnp.asarray(x), 0)
    found = log_normal(np.asarray(encoded.z), 1.0) + np.asarray(encoded.log_ratio)
    np.testing.assert_allclose(found, log_normal(x, math.hypot(1, STD)), rtol=1e-4)
    np.testing.assert_array_equal(exact.decode({}, encoded.z), encoded.z)


@pytest.mark.thorough
def test_with_another_posterior_it_is_a_lower_bound():
    """The gap is the Kullback-Leibler divergence of the encoder from the posterior."""
    x = jnp.full((20_000, 3), 0.7)
    encoded = coder(0.6, 0.1).encode({}, SDE, KEY, x, 0)
    found = log_normal(np.asarray(encoded.z), 1.0) + np.asarray(encoded.log_ratio)
    ours, posterior = 0.99 * 0.1 + 0.01, STD**2 / (1 + STD**2)
    square = (0.99**0.5 * 0.6 * 0.7 - 0.7 / (1 + STD**2)) ** 2
    gap = 1.5 * ((ours + square) / posterior - 1 - math.log(ours / posterior))
    exact = log_normal(np.full((1, 3), 0.7), math.hypot(1, STD))[0]
    error = found.std() / math.sqrt(len(x))
    assert found.mean() == pytest.approx(exact - gap, abs=4 * error)
    assert error < 0.02


@pytest.mark.thorough
def test_draws_of_a_sample_do_not_depend_on_its_batch():
    x, made = jnp.linspace(-1, 1, 12).reshape(4, 3), coder(0.6, 0.1)
    whole, part = made.encode({}, SDE, KEY, x, 0), made.encode({}, SDE, KEY, x[2:], 2)
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(a[2:], b, rtol=1e-6)


@pytest.mark.thorough
def test_grey_levels_have_probabilities_that_sum_to_one():
    levels, made = 5, coder(0.6, 1e-6, levels=5)
    grey = jnp.linspace(-1, 1, levels)[:, None] * jnp.ones(3)
    log_p = made._log_prob({}, grey, 0.1 * jnp.ones_like(grey))
    each = np.exp(np.asarray(log_p) / 3)  # the dimensions are alike
    assert each.sum() == pytest.approx(1, rel=1e-5)
