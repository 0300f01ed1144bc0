import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers
import sde_lib
from sde_lib.batch import expand

SHAPE = (3, 16)
VP = sde_lib.VP()
GRID = (4.0, 1.5, 0.6, 0.2)
WINDOW, CUTOFF = 0.12, 0.25


def score(x, t):
    """A score of no data at all, with a scale that depends on the time."""
    return -x * expand(1.5 + jnp.sin(9 * t), x)


def start(scale):
    """States at the first level, whose variances do not fit it."""
    x = jax.random.normal(jax.random.key(1), SHAPE) * jnp.array(scale)[:, None]
    return samplers.Start(x, float(VP.inverse_noise_level(GRID[0])))


def fitting_time(x, t):
    """The time near t with the variance of each sample, in float64 and by VP's closed form."""
    variance = np.minimum(np.var(np.float64(x), axis=1), 1 - 1e-9)
    integral = -np.log1p(-variance)
    tau = 2 * integral / (0.1 + np.sqrt(0.1**2 + 2 * 19.9 * integral))
    near = np.clip(tau, t - WINDOW / 2, min(t + WINDOW / 2, 1.0))
    return near if t > CUTOFF else np.full(len(x), t)


def level(t):
    return np.sqrt(np.expm1(np.float64(t) * (0.1 + np.float64(t) * 9.95)))


def reference(x, heun):
    """Steps from the shifted time to the next level, sample by sample."""
    x = np.float64(x)

    def noise(y, std):
        t = np.asarray(VP.inverse_noise_level(jnp.float32(std)))
        alpha = (1 + std**2) ** -0.5
        s = np.asarray(score(jnp.float32(alpha[:, None] * y), jnp.float32(t)), np.float64)
        return -(alpha * std)[:, None] * s

    for now, then in itertools.pairwise(GRID):
        tau = fitting_time(x, float(VP.inverse_noise_level(now)))
        begin, then = np.maximum(level(tau), then), np.full(len(x), then)
        y, length = x * np.sqrt(1 + begin**2)[:, None], (then - begin)[:, None]
        first = noise(y, begin)
        step = first if not heun else 0.5 * (first + noise(y + length * first, then))
        x = (y + length * step) / np.sqrt(1 + then**2)[:, None]
    return x


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["euler", "heun"])
def test_a_step_goes_on_from_the_time_that_fits_the_sample(name):
    """Samples of too little, of fitting and of too much variance."""
    solver = samplers.create(
        name, n_steps=3, grid=GRID, denoise=False, shift_window=WINDOW, shift_cutoff=CUTOFF
    )
    begin = start((0.8, 0.97, 1.3))
    run = jax.jit(lambda x: solver(jax.random.key(0), VP, score, SHAPE, start=begin._replace(x=x)))
    x = run(begin.x).x
    np.testing.assert_allclose(x, reference(begin.x, name == "heun"), rtol=2e-3, atol=2e-3)
    plain = dataclasses.replace(solver, shift_window=0.0, shift_cutoff=0.0)
    other = plain(jax.random.key(0), VP, score, SHAPE, start=begin).x
    assert np.abs(x - other).max() > 0.05


@pytest.mark.thorough
def test_ancestral_steps_have_the_noise_of_the_shifted_step():
    """One step: the mean from the shifted level, and DDIM's noise between the two levels."""
    n = 4000
    solver = samplers.EulerAncestral(
        1, GRID[:2], denoise=False, shift_window=WINDOW, shift_cutoff=CUTOFF
    )
    x = 0.9 * jax.random.normal(jax.random.key(1), (1, 16))
    begin = samplers.Start(jnp.repeat(x, n, 0), float(VP.inverse_noise_level(GRID[0])))
    now, then = level(fitting_time(x, begin.t))[0], GRID[1]
    samples = solver(jax.random.key(0), VP, lambda x, t: -x, (n, 16), start=begin)
    y = np.asarray(samples.x) * np.sqrt(1 + then**2)
    up = then * np.sqrt((now - then) * (now + then)) / now
    assert y.std(axis=0).mean() == pytest.approx(up, rel=0.02)
    start_y = np.asarray(x[0]) * np.sqrt(1 + now**2)
    eps = now / (1 + now**2) * start_y  # of the score -x
    mean = start_y + (np.sqrt(then**2 - up**2) - now) * eps
    np.testing.assert_allclose(y.mean(axis=0), mean, atol=5 * up / np.sqrt(n))


@pytest.mark.thorough
def test_without_a_window_nothing_changes_and_a_cutoff_alone_is_refused():
    with pytest.raises(ValueError, match=r"shift_cutoff is 0\.5, which does nothing without"):
        samplers.Heun(shift_cutoff=0.5)
    with pytest.raises(ValueError, match=r"shift_window is -1\.0"):
        samplers.DDIM(shift_window=-1.0)
    beyond = samplers.Euler(3, GRID, denoise=False, shift_window=1.0, shift_cutoff=1.0)
    plain = samplers.Euler(3, GRID, denoise=False)
    ends = [
        s(jax.random.key(0), VP, score, SHAPE, start=start((1.3,) * 3)).x for s in (beyond, plain)
    ]
    np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-5)
