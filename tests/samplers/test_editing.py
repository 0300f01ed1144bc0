import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers
from samplers import editing
from samplers.solver import NoiseLevelSolver


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_the_latent_of_a_gaussian_is_the_closed_form(name):
    sde, gaussian = SDES[name], Gaussian()
    x = gaussian.sample(jax.random.key(0), (64, 4))
    latent = jax.jit(lambda x: editing.encode(sde, gaussian.score_fn(sde), x))(x)
    exact, _ = gaussian.flow(sde, x, sde.t_min)
    np.testing.assert_allclose(latent, exact, rtol=1e-3, atol=1e-3 * sde.prior_std)


@pytest.mark.thorough
def test_a_latent_decodes_to_what_it_was_made_from():
    sde, mixture, tolerance = SDES["vp"], Mixture(), 1e-4
    score_fn, x = mixture.score_fn(sde), mixture.sample(jax.random.key(0), 64)

    @jax.jit
    def there_and_back(x):
        start = samplers.Start(editing.encode(sde, score_fn, x, tolerance, tolerance), sde.t_max)
        decoder = samplers.ProbabilityFlow(tolerance, tolerance)
        return decoder(jax.random.key(0), sde, score_fn, x.shape, start=start).x

    np.testing.assert_allclose(there_and_back(x), x, atol=20 * tolerance)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("subvp", samplers.EulerMaruyama(250)),
        ("ve", samplers.PredictorCorrector(250, "ancestral_sampling", "none")),
        ("vp", samplers.PredictorCorrector(250, corrector="none")),
    ],
    ids=["euler_maruyama", "ancestral_sampling", "reverse_diffusion"],
)
def test_variations_of_gaussian_data_are_the_closed_form(name, sampler):
    """x_t given x_0, then x_0 given x_t: linear maps and Gaussian noise, both known."""
    sde, gaussian, n, strength = SDES[name], Gaussian(), 20_000, 0.4
    x0 = jnp.full((n, 1), 2.0)
    run = jax.jit(lambda key: editing.vary(sampler, key, sde, gaussian.score_fn(sde), x0, strength))
    x = np.asarray(run(jax.random.key(0)), np.float64)
    alpha, sigma = float(sde.alpha(strength)), float(sde.sigma(strength))
    variance = (alpha * gaussian.std) ** 2 + sigma**2
    gain = alpha * gaussian.std**2 / variance
    mean = gaussian.mean + gain * alpha * (2.0 - gaussian.mean)
    std = np.sqrt((gaussian.std * sigma) ** 2 / variance + (gain * sigma) ** 2)
    assert x.mean() == pytest.approx(mean, abs=4 * std / np.sqrt(n) + 0.01)
    assert x.std() == pytest.approx(std, rel=0.03)


@pytest.mark.thorough
def test_the_flow_takes_noised_data_back_by_the_closed_form():
    sde, gaussian, t = SDES["subvp"], Gaussian(), 0.5
    key, score_fn = jax.random.key(0), gaussian.score_fn(sde)
    x = jax.random.normal(key, (32, 4))
    sampler = samplers.ProbabilityFlow()
    back = jax.jit(lambda x: sampler(key, sde, score_fn, x.shape, start=samplers.Start(x, t)).x)(x)
    (mean, std), (end_mean, end_std) = (gaussian.marginal(sde, at) for at in (t, sde.t_min))
    np.testing.assert_allclose(back, end_mean + end_std / std * (x - mean), atol=1e-4)


OWN_LOOP = sorted(  # samplers that do not share the loop of NoiseLevelSolver, of any score
    name
    for name, kind in samplers.SAMPLERS.items()
    if kind.__call__ is not NoiseLevelSolver.__call__
    and name not in ("symmetric_splitting", "mean_flow")
)


@pytest.mark.parametrize("name", [*OWN_LOOP, "heun", "dpm_solver", "dpmpp_2m_sde"])
def test_every_sampler_starts_from_the_given_states(name):
    """Just above t_min, little can change; at strength 0, nothing does.

    Solvers between noise levels share one loop: three stand for all.
    """
    takes = {field.name for field in dataclasses.fields(samplers.SAMPLERS[name])}
    options = {"n_levels": 20, "n_steps": 60}
    sampler = samplers.create(name, **{k: n for k, n in options.items() if k in takes})
    sde, mixture, key = SDES["vp"], Mixture(), jax.random.key(3)
    score_fn, x0 = mixture.score_fn(sde), mixture.sample(jax.random.key(1), 4)
    near = jax.jit(lambda x0: editing.vary(sampler, key, sde, score_fn, x0, 0.002))(x0)
    np.testing.assert_allclose(near, x0, atol=0.25)
    np.testing.assert_array_equal(editing.vary(sampler, key, sde, score_fn, x0, 0.0), x0)


@pytest.mark.thorough
def test_variation_i_does_not_depend_on_its_batch():
    sde, mixture, key = SDES["vp"], Mixture(), jax.random.key(3)
    sampler, score_fn = samplers.EulerMaruyama(20), mixture.score_fn(sde)
    x0 = mixture.sample(jax.random.key(1), 4)
    vary = jax.jit(lambda x0, first: editing.vary(sampler, key, sde, score_fn, x0, 0.3, first))
    together, alone = vary(x0, 0), vary(x0[2:3], 2)
    np.testing.assert_allclose(together[2], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_slerp_turns_at_a_constant_rate_and_keeps_the_norm():
    a, b = 3 * jax.random.normal(jax.random.key(0), (2, 500, 4, 4, 3))
    slerp = jax.jit(editing.slerp)

    def norm(x):
        return np.linalg.norm(np.reshape(x, (500, -1)), axis=1)

    def angle(x, y):
        cosine = np.sum(np.reshape(x * y, (500, -1)), axis=1) / norm(x) / norm(y)
        return np.arccos(cosine)

    for weight in (0.25, 0.5, 0.9):
        middle = slerp(a, b, weight)
        np.testing.assert_allclose(norm(middle), (1 - weight) * norm(a) + weight * norm(b), 1e-5)
        np.testing.assert_allclose(angle(a, middle), weight * angle(a, b), rtol=1e-3)
        assert norm(middle).mean() == pytest.approx(norm(a).mean(), rel=0.02)
        assert middle.std() == pytest.approx(3, rel=0.02)
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-5)
    np.testing.assert_allclose(editing.slerp(a, b, jnp.ones(500)), b, atol=1e-5)
    np.testing.assert_allclose(slerp(a, 2 * a, 0.5), 1.5 * a, rtol=1e-5)


def test_mistakes_are_refused():
    sde, score_fn, x0 = SDES["vp"], Gaussian().score_fn(SDES["vp"]), jnp.zeros((4, 2))
    sampler, key = samplers.EulerMaruyama(10), jax.random.key(0)
    for strength in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"strength is {strength}: it must lie in"):
            editing.vary(sampler, key, sde, score_fn, x0, strength)
    with pytest.raises(ValueError, match=r"start.x has the shape \(4, 2\)"):
        sampler(key, sde, score_fn, (5, 2), start=samplers.Start(x0, 1.0))
    for t in (0.0, 2.0):
        with pytest.raises(ValueError, match=f"start.t is {t}: it must lie in"):
            sampler(key, sde, score_fn, (4, 2), start=samplers.Start(x0, t))
