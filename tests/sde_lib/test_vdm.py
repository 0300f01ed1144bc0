from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closed_forms import Gaussian

import models
import sde_lib
from sde_lib.batch import expand

SDE = sde_lib.LogLinear(-4.5, 5.0)
GAUSSIAN = Gaussian()
STEP = 0.05
VALUES = np.arange(-100, 101) * STEP
KEY = jax.random.key(0)


def grey_gaussian(n, dims):
    """Draws of GAUSSIAN, rounded to VALUES."""
    return STEP * jnp.round(GAUSSIAN.sample(jax.random.key(1), (n, dims)) / STEP)


def away(x, mean, std, of_mean, of_std):
    """E[-log N(of_mean, of_std^2)] of z ~ N(mean, std^2), summed over dimensions."""
    squares = ((mean - of_mean) ** 2 + std**2) / of_std**2
    return jnp.sum(0.5 * squares + jnp.log(of_std) + 0.5 * np.log(2 * np.pi), axis=1)


def entropy(std, dims):
    return dims * (jnp.log(std) + 0.5 * np.log(2 * np.pi * np.e))


def standard_error(values):
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


@pytest.mark.thorough
def test_the_terms_of_gaussian_data_are_the_closed_forms_and_above_the_exact_likelihood():
    """With the exact score the diffusion loss has a closed form in Gaussian cross-entropies."""
    x = grey_gaussian(4000, 3)
    score_fn = GAUSSIAN.score_fn(SDE)
    bound = jax.jit(
        lambda x: sde_lib.continuous_bound(KEY, SDE, score_fn, x, jnp.asarray(VALUES), 100)
    )(x)
    ends = [SDE.marginal(x, t) for t in (0.0, 1.0)]
    (first, least), (last, most) = ends
    own = [GAUSSIAN.marginal(SDE, t) for t in (0.0, 1.0)]
    prior = away(x, last, most, 0.0, 1.0) - entropy(most, 3)
    through = away(x, first, least, *own[0]) - entropy(least, 3)
    mismatch = away(x, last, most, 0.0, 1.0) - away(x, last, most, *own[1])
    np.testing.assert_allclose(bound.prior, prior, rtol=1e-3, atol=1e-4)
    difference = bound.diffusion - (through + mismatch - prior)
    assert float(difference.mean()) == pytest.approx(0, abs=4 * standard_error(difference))
    assert standard_error(difference) < 0.015

    exact = -GAUSSIAN.log_prob(x) - 3 * np.log(STEP)  # of a grey level
    gap = away(x, first, least, *own[0]) - 3 * np.log(STEP * SDE.alpha(0.0)) + mismatch - exact
    above = sum(bound) - exact
    error = standard_error(above - gap)
    assert float((above - gap).mean()) == pytest.approx(0, abs=4 * error)
    assert error < 0.025 < 0.03 < gap.mean() < 0.05  # 0.02 bits/dim


@pytest.mark.thorough
def test_two_grey_levels_of_equal_probability_take_one_bit():
    """Data that are discrete indeed: the model's density is a mixture of two kernels."""
    sde, values = sde_lib.LogLinear(-5.0, 8.0), jnp.array([-1.0, 1.0])

    def score_fn(x, t):
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        return (alpha * jnp.tanh(alpha * x / sigma**2) - x) / sigma**2

    x = jax.random.choice(jax.random.key(2), values, (400, 5))
    bound = jax.jit(lambda x: sde_lib.continuous_bound(KEY, sde, score_fn, x, values, 100))(x)
    bits = sde_lib.bits_per_dim(-jnp.asarray(sum(bound)), (5,), levels=None)
    assert float(bits.mean()) == pytest.approx(1, abs=4 * standard_error(bits))
    assert standard_error(bits) < 0.015


def test_encoding_weighs_z_0_by_what_it_says_of_the_grey_level():
    """Comparison with the definition, in float64."""
    x = grey_gaussian(4, 3)
    values = jnp.asarray(VALUES)
    encode = jax.jit(lambda x, first: sde_lib.encode_grey_levels(KEY, SDE, x, values, first))
    encoded = encode(x, 7)
    z = np.asarray(encoded.z, np.float64)[..., None]
    alpha, sigma = float(SDE.alpha(0.0)), float(SDE.sigma(0.0))
    kernel = -0.5 * ((z - alpha * VALUES) / sigma) ** 2 - np.log(sigma * np.sqrt(2 * np.pi))
    chosen = np.take_along_axis(kernel, np.searchsorted(VALUES, x - 1e-3)[..., None], -1)[..., 0]
    np.testing.assert_allclose(encoded.log_q, chosen.sum(1), rtol=1e-4, atol=1e-4)
    log_p = chosen - np.log(np.exp(kernel).sum(-1))
    np.testing.assert_allclose(encoded.log_p, log_p.sum(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(encode(jnp.roll(x, -2, 0), 9).z[:2], encoded.z[2:])


def bent(bend):
    """A schedule of log-SNR, linear for bend = 0."""
    return lambda u: 4.5 - 9.5 * (u + bend * u * (1 - u))


def losses(schedule=None, n=20_000, dims=3, factor=1.0, key=KEY):
    """Diffusion losses of `factor` times the exact score."""
    x, score_fn = GAUSSIAN.sample(jax.random.key(3), (n, dims)), GAUSSIAN.score_fn(SDE)
    return sde_lib.diffusion_loss(
        key, SDE, lambda x, t: factor * score_fn(x, t), x, schedule, stratified=n < 1000
    )[0]


def test_the_interior_of_the_schedule_leaves_the_mean_and_changes_the_variance():
    """The mean is 1/2 log(1 + SNR std^2) at one end minus that at the other, a dimension."""
    information = 0.5 * np.log1p(0.49 * np.exp([4.5, -5.0]))
    expected = 3 * (information[0] - information[1])
    spread, of = [], jax.jit(lambda bend: losses(bent(bend)))
    for bend in (-0.6, 0.0, 0.6):
        values = of(bend)
        spread.append(float(np.std(values)))
        assert float(values.mean()) == pytest.approx(expected, abs=4 * standard_error(values))
    assert spread[2] > 1.15 * spread[1] > 1.15**2 * spread[0]


@pytest.mark.thorough
def test_the_schedule_has_the_gradient_of_the_square_and_the_network_its_own():
    @partial(jax.jit, static_argnums=2)
    def mean(bend, factor, power):
        return jnp.mean(losses(bent(bend), 256, factor=factor) ** power)

    (bend, factor), h = (0.2, 0.9), 1e-2
    of_bend, of_factor = jax.grad(mean, (0, 1))(bend, factor, 1)
    square = (mean(bend + h, factor, 2) - mean(bend - h, factor, 2)) / (2 * h)
    plain = (mean(bend, factor + h, 1) - mean(bend, factor - h, 1)) / (2 * h)
    assert float(of_bend) == pytest.approx(float(square), rel=5e-3)
    assert float(of_factor) == pytest.approx(float(plain), rel=5e-3)


@pytest.mark.thorough
def test_a_learned_schedule_lowers_the_variance_to_nearly_the_least_there_is():
    """Rates proportional to 1 / error are best; the squares' ratio is then these integrals'.

    Of D dimensions the loss is gamma' v chi^2_D / 2, v the exact score's error: by Cauchy-Schwarz
    E loss^2 is at least (D^2 + 2 D) / 4 (integral of v dgamma)^2.
    """
    dims, schedule = 16, models.LearnedSchedule(-4.5, 5.0)
    optimizer = optax.adam(1e-2)

    def of(params, key, n):
        gamma: Any = partial(schedule.apply, params)
        return losses(lambda u: -gamma(u), n, dims, key=key)

    def step(carry, key):
        params, state = carry
        grads = jax.grad(lambda params: jnp.mean(of(params, key, 64)))(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def roots():
        """Root mean square loss: linear schedule, learned schedule before and after training."""
        params = schedule.init(KEY, jnp.zeros(1))
        keys = jax.random.split(KEY, 500)
        (learned, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        n = 20_000
        found = losses(None, n, dims), of(params, KEY, n), of(learned, KEY, n)
        return [jnp.sqrt(jnp.mean(values**2)) for values in found]

    v = 1 / (1 + np.exp(np.linspace(-4.5, 5, 10_001)) / 0.49)
    scale = 9.5 * 0.5 * np.sqrt(dims**2 + 2 * dims)
    linear, before, after = map(float, roots())
    least = scale * np.mean(v)
    assert linear == pytest.approx(scale * np.sqrt(np.mean(v**2)), rel=0.01)
    assert before == pytest.approx(linear, rel=0.02)
    assert linear > 1.3 * least
    assert least < after < 1.04 * least
