from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import linear
import numpy as np
import pytest
from closed_forms import Gaussian

import samplers
import sde_lib
from samplers import noise_levels
from samplers.base import Start

BETAS = np.linspace(0.01, 0.3, 20)
KNOWN = Gaussian(0.3, 0.0)  # x_0 is one point: D is constant


def test_weak_and_strong_order_one():
    for create in (samplers.Euler, samplers.EulerAncestral, samplers.DDPM):
        np.testing.assert_allclose(linear.weak_orders(create), 1, atol=0.05)
        np.testing.assert_allclose(linear.strong_orders(create), 1, atol=0.3)
    half = partial(samplers.EulerAncestral, eta=0.5)
    np.testing.assert_allclose(linear.weak_orders(half), 1, atol=0.05)


@pytest.mark.thorough
def test_a_single_data_point_is_reached_alike_in_any_number_of_steps_and_any_batch():
    def draw(n_steps, first_index):
        sampler = samplers.EulerAncestral(n_steps, denoise=False)
        score_fn = KNOWN.score_fn(sde_lib.EDM())
        return sampler(jax.random.key(0), sde_lib.EDM(), score_fn, (4, 2), first_index).x

    run = jax.jit(draw, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
    few, many, shifted = run(2, 0), run(9, 0), run(9, 1)
    np.testing.assert_allclose(few, many, atol=1e-6)
    np.testing.assert_array_equal(many[1:], shifted[:-1])
    np.testing.assert_allclose(np.std(many - KNOWN.mean), 0.002, rtol=0.6)


def test_ddim_without_noise_is_euler_and_with_all_of_it_ddpm_with_the_smaller_variance():
    now, then = linear.karras(9)[:-1], linear.karras(9)[1:]
    length = samplers.Euler(9).plan(now, then).coefficients
    down, up = samplers.DDIM(9).plan(now, then).coefficients
    np.testing.assert_allclose(down, length, rtol=1e-12)
    np.testing.assert_array_equal(up, 0)
    ddim = samplers.DDIM(9, eta=1.0).plan(now, then)
    ddpm = samplers.DDPM(9, variance="posterior").plan(now, then)
    np.testing.assert_allclose(ddim.coefficients, ddpm.coefficients, rtol=1e-12)
    assert ddim.rate == ddpm.rate == 1


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_ddpm_on_all_levels_is_its_chain(variance):
    """Ho et al. 2020, Algorithm 2, of which mean and variance are known for Gaussian data."""
    products = np.cumprod(1 - BETAS)
    levels = np.sqrt(1 / products - 1)[::-1]
    data = Gaussian()
    sampler: Any = samplers.DDPM(len(BETAS), variance=variance)
    plan = sampler.plan(levels[:-1], levels[1:])
    x, z = np.random.default_rng(0).normal(size=(2, 5))
    for k in range(len(BETAS) - 1):
        t = len(BETAS) - 1 - k
        alpha, before = products[t] ** 0.5, products[t - 1] ** 0.5
        std = np.sqrt(products[t] * data.std**2 + 1 - products[t])
        noise = np.sqrt(1 - products[t]) * (x - alpha * data.mean) / std**2
        mean = (x - BETAS[t] / np.sqrt(1 - products[t]) * noise) / np.sqrt(1 - BETAS[t])
        smaller = (1 - products[t - 1]) / (1 - products[t]) * BETAS[t]
        chain = mean + np.sqrt(BETAS[t] if variance == "beta" else smaller) * z
        c = tuple(a[k] for a in plan.coefficients)
        model = linear.Linear(plan.evaluations[k])
        ours, _ = sampler.step(model, x / alpha, c, None, z[None])
        np.testing.assert_allclose(before * ours, chain, rtol=1e-9)
        x = chain


@pytest.mark.thorough
def test_ddpm_steps_as_the_ancestral_predictor():
    sde, data = sde_lib.from_betas(BETAS), Gaussian()
    index = np.array([19, 10, 1])
    t = jnp.asarray(index / 19)
    now, then = np.float64(sde.noise_level(t)), np.float64(sde.noise_level(t - 1 / 19))
    x, z = jax.random.normal(jax.random.key(0), (2, 3, 1))
    step = samplers.PREDICTORS["ancestral_sampling"]
    expected, _ = step(sde, data.score_fn(sde), x, t, 1 / 19, z)
    sampler: Any = samplers.DDPM(20)
    plan = sampler.plan(now, then)
    y = np.asarray(x)[:, 0] / sde.alpha(t)
    ours, _ = sampler.step(linear.Linear([now]), y, plan.coefficients, None, z[None, :, 0])
    np.testing.assert_allclose(sde.alpha(t - 1 / 19) * ours, expected[:, 0], rtol=1e-4)


@pytest.mark.thorough
def test_strides_are_counted_in_integers():
    """1000 (1 - 48 / 50) is 40.00000000000003: its ceiling is not its stride."""
    sde = sde_lib.from_betas(np.linspace(1e-4, 0.02, 1000))
    chain = noise_levels.levels_at(sde, np.linspace(0, 1, 1000))
    levels = noise_levels.GRIDS["ddim"](sde, chain[-1], chain[0], 50, None)
    np.testing.assert_allclose(levels, chain[999::-20], rtol=1e-5)


@pytest.mark.parametrize("sde", [sde_lib.EDM(), sde_lib.VP()])
def test_as_many_strides_as_a_chain_has_levels_need_no_chain(sde):
    """They are even in VP's t, also under EDM."""
    vp = sde_lib.VP()
    levels = noise_levels.GRIDS["ddim"](sde, 80.0, 0.002, 1000, None)
    t = float(vp.inverse_noise_level(jnp.float32(80.0))) * np.arange(1000, 0, -1) / 1000
    np.testing.assert_allclose(levels, vp.noise_level(jnp.asarray(t, jnp.float32)), rtol=1e-5)


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match=r"eta is 1.5: it must be in \[0, 1\]"):
        samplers.EulerAncestral(eta=1.5)
    with pytest.raises(ValueError, match="s_noise is -1"):
        samplers.DDIM(s_noise=-1)
    with pytest.raises(ValueError, match="variance 'large' is unknown"):
        samplers.DDPM(variance="large")  # pyright: ignore[reportArgumentType]


def exact_variance(n):
    """Analytic-DPM's of Gaussian data at all levels: Var(x_0 | y) / l^2."""
    log_snrs = np.linspace(12.0, -12.0, n)
    return sde_lib.AnalyticVariance(
        tuple(log_snrs), tuple(linear.STD**2 / (linear.STD**2 + np.exp(-log_snrs)))
    )


def test_analytic_variance_is_exact_for_a_gaussian_in_few_steps():
    """The steps are the reversed process' own: samples have the data's variance."""
    levels = linear.karras(5)
    solver = samplers.DDPM(5, denoise=False, variance=exact_variance(4000))
    exact = np.hypot(linear.STD, levels[-1])
    assert linear.final_std(solver, levels) == pytest.approx(exact, rel=1e-4)
    for variance in ("beta", "posterior"):
        other = samplers.DDPM(5, denoise=False, variance=variance)
        assert abs(linear.final_std(other, levels) / exact - 1) > 0.005


class Learned(linear.Linear):
    v = 0.0

    def noise_and_variance(self, y):
        return self.noise(y), np.full_like(y, self.v)


def test_learned_variance_lies_between_the_posteriors_and_beta():
    now, then = linear.karras(9)[:-1], linear.karras(9)[1:]

    def step(variance, k, z, v=0.0):
        sampler: Any = samplers.DDPM(9, variance=variance)
        model = Learned(now[k : k + 1])
        model.v = v
        with jax.enable_x64(True):
            c = tuple(a[k] for a in sampler.plan(now, then).coefficients)
            return np.asarray(sampler.step(model, np.full(5, 0.4), c, None, z[None])[0])

    z = np.random.default_rng(0).normal(size=5)
    for k in (0, 5, 8):
        smaller, larger, mean = step("posterior", k, z), step("beta", k, z), step("beta", k, 0 * z)
        np.testing.assert_allclose(step("learned", k, z, 0.0), smaller, rtol=1e-9)
        np.testing.assert_allclose(step("learned", k, z, 1.0), larger, rtol=1e-9)
        middle = np.sign(z) * np.sqrt((smaller - mean) * (larger - mean))
        np.testing.assert_allclose(step("learned", k, z, 0.5), mean + middle, rtol=1e-9)


@pytest.mark.thorough
def test_score_and_variance_come_from_one_evaluation():
    sde, calls = sde_lib.from_betas(BETAS), []

    def both(x, t):
        calls.append(1)
        return Gaussian().score_fn(sde)(x, t), x

    def draw(key, variance):
        sampler = samplers.DDPM(4, variance=variance)
        return sampler(key, sde, sde_lib.ScoreAndVariance(both), (3, 2)).x

    counts = []
    for variance in ("posterior", "learned"):
        calls.clear()
        jax.eval_shape(partial(draw, variance=variance), jax.random.key(0))
        counts.append(len(calls))
    assert counts[0] == counts[1]


@pytest.mark.thorough
def test_a_missing_variance_is_refused():
    about = jax.random.key(0), sde_lib.VP(), Gaussian().score_fn(sde_lib.VP()), (3, 2)
    with pytest.raises(ValueError, match="a score_fn that is a ScoreAndVariance"):
        jax.eval_shape(lambda: samplers.DDPM(4, variance="learned")(*about).x)
    with pytest.raises(ValueError, match="a name in configs"):
        jax.eval_shape(lambda: samplers.DDPM(4, variance="analytic")(*about).x)


@pytest.mark.thorough
def test_ddim_clips_the_estimate_and_keeps_the_noise():
    """As in diffusers, whose step is sqrt(a') clip(x_0) + sqrt(1 - a') eps."""
    sde = sde_lib.chain(10)
    levels = np.exp(-0.5 * np.asarray(sde.log_snrs))[[9, 4]]
    x = jnp.asarray([[3.0, -0.2]])
    score_fn = lambda x, t: -0.1 * x / sde.sigma(t)[:, None]  # noqa: E731
    sampler = samplers.DDIM(1, grid=tuple(levels), denoise=False, clip=1.0)
    made = sampler(jax.random.key(0), sde, score_fn, x.shape, start=Start(x, sde.t_max)).x
    alpha, sigma = 1 / np.hypot(1, levels), levels / np.hypot(1, levels)
    estimate = np.clip((x - sigma[0] * 0.1 * x) / alpha[0], -1, 1)
    np.testing.assert_allclose(made, alpha[1] * estimate + sigma[1] * 0.1 * x, rtol=1e-5)
    whole = samplers.DDIM(2, grid=tuple(levels), clip=0.3)
    ended = whole(jax.random.key(0), sde, score_fn, x.shape, start=Start(x, sde.t_max)).x
    assert np.abs(ended).max() == np.float32(0.3)
    with pytest.raises(ValueError, match=r"clip is -1\.0: it must be positive"):
        samplers.DDIM(clip=-1.0)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["vp", "edm"])
def test_fresh_noise_has_the_moments_of_its_recursion(name):
    """Gaussian data: the estimate shrinks what is off the mean, and each step's noise is new."""
    sde, gaussian = {"vp": sde_lib.VP(), "edm": sde_lib.EDM()}[name], Gaussian()
    sampler = samplers.FreshNoise(3, "karras", sigma_max=10.0, sigma_min=0.5)
    draw = jax.jit(lambda key: sampler(key, sde, gaussian.score_fn(sde), (20_000, 2)))
    samples = draw(jax.random.key(0))
    levels = sampler.levels(sde, 10.0, 0.5)
    mean, variance = 0.0, levels[0] ** 2
    for now, then in zip(levels, [*levels[1:], 0.0], strict=True):
        kept = gaussian.std**2 / (gaussian.std**2 + now**2)
        mean = gaussian.mean + kept * (mean - gaussian.mean)
        variance = kept**2 * variance + then**2
    assert samples.nfe == 3
    np.testing.assert_allclose(np.mean(samples.x), mean, atol=4 * (variance / 40_000) ** 0.5)
    np.testing.assert_allclose(np.var(samples.x), variance, rtol=0.03)


def test_fresh_noise_is_one_step_of_ddim_with_the_most_noise():
    """x_s = alpha_s D + sigma_s z: only the estimate of x_t is left of it."""
    sampler, now, then = samplers.FreshNoise(2), np.array([2.0]), np.array([0.5])
    plan = sampler.plan(now, then)
    z = np.array([[1.0], [3.0]])
    for y in np.array([[0.3], [0.3]]), np.array([[-5.0], [-5.0]]):
        model = linear.Linear(plan.evaluations[0])
        made, _ = sampler.step(model, y, plan.coefficients[0], np.zeros((0, 2)), z[None])
        np.testing.assert_allclose(made, model.denoised(y) + 0.5 * z, rtol=1e-6)
