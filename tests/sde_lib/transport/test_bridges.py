import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian, GaussianBridge

import samplers
import sde_lib
from sde_lib.transport import Brownian, Sinkhorn, at_eta, entropy
from sde_lib.transport.bridges import towards

N = 20_000
ENDS = Gaussian(0.3, 0.7), Gaussian(-1.0, 1.2)
SDES = {"brownian": Brownian(0.8), "vp": sde_lib.VP(0.1, 6.0), "ve": sde_lib.VE(0.01, 2.0)}
KEY = jax.random.key(0)


def ends(covariance, n=N):
    """n pairs (x_0, x_1) of the ends with this covariance, [n, 1] each."""
    a, b = jax.random.normal(jax.random.key(5), (2, n, 1))
    first, last = ENDS
    slope = covariance / first.std
    rest = np.sqrt(last.std**2 - slope**2)
    return first.mean + first.std * a, last.mean + slope * a + rest * b


@pytest.mark.parametrize("name", SDES)
def test_states_between_given_ends_have_the_moments_of_the_conditioned_sde(name):
    sde = SDES[name]
    x0, x1 = jnp.full((N, 1), 0.5), jnp.full((N, 1), -1.5)
    noisy = sde_lib.perturb(KEY, sde, x0, source=x1, bridge=True)
    p, q, v = GaussianBridge(sde, ENDS).weights(noisy.t)
    z = (noisy.x[:, 0] - p * 0.5 + q * 1.5) / jnp.sqrt(v)
    assert abs(float(z.mean())) < 4 / np.sqrt(N)
    assert abs(float(z.var()) - 1) < 4 * np.sqrt(2 / N)
    np.testing.assert_allclose(sde.noised(x0, noisy.t, noisy.z), noisy.x, rtol=1e-6)


@pytest.mark.thorough
def test_without_a_bridge_states_lie_on_the_line_between_their_ends():
    sde, (x0, x1) = sde_lib.LinearFlow(), ends(0.0, 50)
    x, t, *_ = sde_lib.perturb(KEY, sde, x0, source=x1)
    share = (t / sde.t_max)[:, None]
    np.testing.assert_allclose(x, (1 - share) * x0 + share * x1, atol=2e-6)


def test_a_bridge_to_independent_noise_is_the_diffusion():
    """The noise at t of a bridge from x_0 to the prior is standard normal."""
    sde, x0 = sde_lib.VP(), jnp.zeros((N, 1))
    source = sde.sigma(sde.t_max) * jax.random.normal(jax.random.key(7), (N, 1))
    z = sde_lib.perturb(KEY, sde, x0, source=source, bridge=True).z
    assert abs(float(z.mean())) < 4 / np.sqrt(N)
    assert abs(float(z.var()) - 1) < 4 * np.sqrt(2 / N)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "solver", "options"),
    [
        ("brownian", "euler_maruyama", {"n_steps": 400}),
        ("vp", "dpmpp_2m_sde", {"n_steps": 40}),
        ("ve", "ddpm", {"n_steps": 100, "variance": "posterior"}),
    ],
)
def test_samplers_of_the_reverse_sde_lead_from_the_source_to_the_data(name, solver, options):
    """With the exact score. Schroedinger's bridge alone keeps the covariance of its plan."""
    bridge = GaussianBridge(SDES[name], ENDS)
    _, x1 = ends(bridge.c, 5000)
    sampler = samplers.create(solver, **options)
    start = samplers.Start(x1, bridge.sde.t_max)
    draw = jax.jit(lambda key: sampler(key, bridge.sde, bridge.score_fn(), x1.shape, start=start).x)
    x0 = np.asarray(draw(KEY))
    assert abs(x0.mean() - ENDS[0].mean) < 0.04
    assert abs(x0.std() - ENDS[0].std) < 0.04
    assert abs(np.cov(x0[:, 0], np.asarray(x1)[:, 0])[0, 1] - bridge.c) < 0.06


@pytest.mark.thorough
@pytest.mark.parametrize("eta", [0.0, 0.4])
def test_less_noise_leads_to_the_same_data_with_the_means_of_both_ends(eta):
    """From t = 0.9 on, as the flow has no limit at t_max."""
    bridge = GaussianBridge(SDES["brownian"], ENDS)
    mean, variance = bridge.moments(jnp.asarray(0.9))
    x = mean + jnp.sqrt(variance) * jax.random.normal(jax.random.key(3), (N, 1))
    score_fn = at_eta(bridge.sde, bridge.score_fn(), lambda x, t: bridge.denoised(1, x, t), eta)
    sampler = samplers.create("dpmpp_2m_sde", n_steps=60, eta=eta, sigma_min=0.01)
    draw = jax.jit(
        lambda key: sampler(key, bridge.sde, score_fn, x.shape, start=samplers.Start(x, 0.9)).x
    )
    x0 = np.asarray(draw(KEY))
    assert abs(x0.mean() - ENDS[0].mean) < 0.02
    assert abs(x0.std() - ENDS[0].std) < 0.02


@pytest.mark.thorough
def test_the_score_of_the_bridge_is_that_of_its_marginal():
    """s + h is grad log p_t, with the means of both ends."""
    bridge, t, x = (
        GaussianBridge(SDES["vp"], ENDS),
        jnp.full(5, 0.4),
        jnp.linspace(-2, 2, 5)[:, None],
    )
    mean, variance = bridge.moments(t)
    own = bridge.score_fn()(x, t) + towards(bridge.sde, x, t, bridge.denoised(1, x, t))
    np.testing.assert_allclose(own, -(x - mean[:, None]) / variance[:, None], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def schroedinger():
    """Noisy states of entropic plans between samples, and the closed form."""
    bridge = GaussianBridge(Brownian(1.0), ENDS)
    coupling = Sinkhorn(group=400, entropy=entropy(bridge.sde))
    x0 = ENDS[0].sample(jax.random.key(1), (N // 2, 1))
    x1 = ENDS[1].sample(jax.random.key(2), (N // 2, 1))
    options = {"coupling": coupling, "bridge": True}
    perturb = jax.jit(lambda x0, x1: sde_lib.perturb(KEY, bridge.sde, x0, source=x1, **options))
    return bridge, np.asarray(x0), jax.tree.map(np.asarray, perturb(x0, x1))


@pytest.mark.thorough
def test_entropic_plans_have_the_covariance_of_the_schroedinger_bridge(schroedinger):
    bridge, x0, noisy = schroedinger
    kept = np.exp(0.5 * (bridge.sde.log_snr(1.0) - bridge.sde.log_snr(noisy.t)))
    # Cov(x_0, z) = r^(1/2) (c - v_0) / sigma_T, at each t
    own = np.sum(kept * (x0 - x0.mean())[:, 0] * noisy.z[:, 0]) / np.sum(kept**2)
    assert abs(own - (bridge.c - ENDS[0].std ** 2)) < 0.02


@pytest.mark.thorough
def test_a_regression_on_the_bridges_is_the_closed_form_of_schroedinger(schroedinger):
    """E[x_0 | x_t] is linear in x_t; a fit within a window of t, against the closed form."""
    bridge, x0, noisy = schroedinger
    for t in (0.2, 0.5, 0.8):
        near = np.abs(noisy.t - t) < 0.05
        x = noisy.x[near]
        (slope, constant), cov = np.polyfit(x[:, 0], x0[near, 0], 1, cov=True)
        at, times = jnp.asarray([[0.0], [1.0]]), jnp.full(2, t)
        zero, one = np.asarray(bridge.denoised(0, at, times))[:, 0]
        assert abs(constant - zero) < 4 * np.sqrt(cov[1, 1]) + 0.01
        assert abs(slope - (one - zero)) < 4 * np.sqrt(cov[0, 0]) + 0.01


@pytest.mark.thorough
def test_bridges_are_refused_where_they_have_no_meaning():
    x0 = jnp.zeros((4, 2))
    with pytest.raises(ValueError, match=r"the source has the shape \(4, 3\), the data \(4, 2\)"):
        sde_lib.perturb(KEY, sde_lib.VP(), x0, source=jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="CLD has velocities"):
        sde_lib.perturb(KEY, sde_lib.CLD(), x0, source=x0)
    with pytest.raises(ValueError, match="scale is 0"):
        Brownian(0.0)
