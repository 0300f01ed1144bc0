import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Correlated
from sklearn.datasets import load_digits

import samplers
import sde_lib
from samplers import editing, strength
from samplers.noise_levels import levels_at
from samplers.solver import NoiseLevelSolver

ALL = SDES | {"edm": sde_lib.EDM(), "flow": sde_lib.LinearFlow()}
GRIDS = sorted(
    name
    for name, kind in samplers.SAMPLERS.items()
    if issubclass(kind, NoiseLevelSolver) or kind is samplers.StochasticRungeKutta
)


@pytest.fixture(scope="module")
def digits():
    """Digits, and the Gaussian with their mean and covariance."""
    x = load_digits().data / 8 - 1
    covariance = np.cov(x.T) + 1e-4 * np.eye(64)
    factor = np.linalg.cholesky(covariance)
    return jnp.asarray(x[:64], jnp.float32), Correlated(tuple(x.mean(0)), tuple(map(tuple, factor)))


def of_steps(name, n):
    options = {"n_levels": n, "n_steps": n}
    fields = {field.name for field in dataclasses.fields(samplers.SAMPLERS[name])}
    return samplers.create(name, **{k: v for k, v in options.items() if k in fields})


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("name", GRIDS)
def test_a_part_makes_the_last_of_the_own_steps(name, denoise):
    """dpm_fast counts evaluations, and makes steps of orders 3 to 1: its levels are those alike."""
    sampler, sde = dataclasses.replace(of_steps(name, 20), denoise=denoise), sde_lib.VP()
    levels = strength.own_levels(sampler, sde)
    n = len(levels) - 1
    assert name == "dpm_fast" or n == 20
    for k in (0, 1, n // 2, n - 5):
        made, t = strength.part(sampler, sde, math.nextafter(1 - k / n, 0))
        np.testing.assert_allclose(strength.own_levels(made, sde), levels[k:], rtol=1e-6)
        assert float(sde.noise_level(jnp.float32(t))) == pytest.approx(levels[k], rel=1e-3)


@pytest.mark.parametrize("grid", ["leading", "trailing", "linspace", "ddim"])
@pytest.mark.parametrize("denoise", [True, False])
def test_a_part_in_a_chain_starts_at_one_of_its_own_levels(grid, denoise):
    sde = sde_lib.from_betas(np.linspace(1e-4, 0.02, 1000))
    sampler = samplers.create("ddim", n_steps=20, grid=grid, denoise=denoise)
    levels = strength.own_levels(sampler, sde)
    made, t = strength.part(sampler, sde, 0.3)
    assert made.n_steps == 6
    np.testing.assert_allclose(made.grid, levels[14 : 20 + (not denoise)], rtol=1e-6)
    uniform = grid == "ddim" and not denoise  # in t, whatever the chain is
    assert uniform or t * 999 == pytest.approx(round(t * 999), abs=0.01)


@pytest.mark.parametrize(
    "name", sorted(samplers.SAMPLERS.keys() - {"symmetric_splitting", "mean_flow"})
)
def test_every_sampler_makes_any_part(name):
    """Also fewer steps than its order needs; and a part ends at the sampler's own last level."""
    sampler, sde = of_steps(name, 24), sde_lib.VP()
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    for share in (0.02, 0.05, 0.06, 0.16, 0.9):

        def vary(x0, share=share):
            key = jax.random.key(0)
            return editing.vary(sampler, key, sde, lambda x, t: -x, x0, share)

        assert jax.eval_shape(vary, shape).shape == (2, 3)


def test_churn_stays_the_same_in_each_step():
    sampler = samplers.create("edm", n_steps=20, s_churn=4.0)
    made, _ = strength.part(sampler, sde_lib.EDM(), 0.25)
    level = np.array([1.0])
    np.testing.assert_allclose(made.inflated(level), sampler.inflated(level))
    assert (made.n_steps, made.s_churn) == (5, 1.0)


def test_the_steps_of_t_are_counted():
    sde = sde_lib.VP()
    made, t = strength.part(samplers.PredictorCorrector(101), sde, 0.4)
    assert made.n_steps == 41
    assert t == pytest.approx(sde.t_min + 0.4 * (1 - sde.t_min), rel=1e-3)
    assert strength.part(samplers.EulerMaruyama(100), sde, 0.4)[0].n_steps == 40
    assert strength.part(samplers.AnnealedLangevin(100), sde, 0.4)[0].n_levels == 40
    flow = samplers.ProbabilityFlow()
    assert strength.part(flow, sde, 0.4) == (flow, pytest.approx(t, rel=1e-2))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("method", ["heun", "ddim", "predictor_corrector"])
def test_a_digit_is_itself_at_strength_0_3_under_every_sde(name, method, digits):
    """The mean correlation falls smoothly from 1 at strength 0 on."""
    (x, gaussian), sde = digits, ALL[name]
    sampler, score_fn = of_steps(method, 20), gaussian.score_fn(sde)

    def correlation(share):
        key = jax.random.key(0)
        vary = jax.jit(lambda x: editing.vary(sampler, key, sde, score_fn, x, share))
        pairs = zip(np.asarray(x), np.asarray(vary(x)), strict=True)
        return np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])

    at = [correlation(share) for share in (0.02, 0.15, 0.3)]
    assert 0.5 < at[2] < 0.995
    assert at[2] < at[1] <= at[0] + 1e-4
    assert at[0] > 0.95


def test_a_noise_level_is_a_start_too():
    sampler, sde = samplers.create("heun", n_steps=20), sde_lib.EDM()
    levels = strength.own_levels(sampler, sde)
    made, t = strength.part(sampler, sde, noise_level=1.5)
    assert t == pytest.approx(1.5)
    np.testing.assert_allclose(made.grid[1:], levels[:-1][levels[:-1] < 1.5])
    by_share = strength.part(sampler, sde, 0.5)
    assert strength.part(sampler, sde, noise_level=levels[10]) == by_share


@pytest.mark.thorough
def test_strengths_0_and_1_are_the_input_and_the_plain_sample():
    sampler, sde, key = samplers.create("heun", n_steps=6), sde_lib.VP(), jax.random.key(0)
    x0, score_fn = jnp.ones((2, 3)), lambda x, t: -x
    np.testing.assert_array_equal(editing.vary(sampler, key, sde, score_fn, x0, 0.0), x0)
    all_steps = editing.vary(sampler, key, sde, score_fn, x0, 1.0)
    np.testing.assert_array_equal(all_steps, sampler(key, sde, score_fn, x0.shape).x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -0.1}, "strength is -0.1: it must lie in"),
        ({"strength": 1.1}, "strength is 1.1: it must lie in"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"noise_level": 0.0}, "noise_level is 0.0: it must be positive"),
        ({"noise_level": 1e-3}, "noise_level is 0.001: it must be above 0.0"),
        ({"noise_level": 1e5}, r"noise_level is 100000: it must be above .* at most 15"),
    ],
)
def test_impossible_parts_are_refused(options, message):
    sde = sde_lib.VP()
    assert levels_at(sde, [sde.t_min])[0] > 1e-3
    with pytest.raises(ValueError, match=message):
        strength.part(samplers.create("heun"), sde, **options)


@pytest.mark.thorough
def test_a_start_below_the_sampler_s_last_level_is_refused():
    sampler = samplers.create("heun", n_steps=6, sigma_min=1.0, denoise=False)
    with pytest.raises(ValueError, match=r"noise_level is 0.5, .* last level is 1: give a higher"):
        strength.part(sampler, sde_lib.EDM(), noise_level=0.5)
