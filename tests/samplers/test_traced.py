"""Hyperparameters as traced values: derivatives, batches of them, and errors where there are none.

Finite differences are taken in float64: those of a few samples are noise in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian

import samplers
import sde_lib
from sde_lib import EDM, VE, VP

KEY, X = jax.random.key(0), np.ones((3, 2))


def mean(sampler, sde, **options):
    return jnp.mean(sampler(KEY, sde, Gaussian().score_fn(sde), X.shape, **options).x)


TRACED = {
    "beta_max": (lambda b: mean(samplers.ProbabilityFlow(1e-8, 1e-8), VP(beta_max=b)), 15.0),
    "beta_max of edm": (lambda b: mean(samplers.EDM(4), VP(beta_max=b)), 15.0),
    "rho": (lambda rho: mean(samplers.EDM(4, rho=rho), VP()), 7.0),
    "s_churn": (lambda s: mean(samplers.EDM(4, s_churn=s), VP()), 1.0),
    "sigma_max": (lambda s: mean(samplers.DPMpp2M(4, sigma_max=s), VP()), 30.0),
    "sigma_max of VE": (lambda s: mean(samplers.DPM2(4), VE(sigma_max=s)), 30.0),
    "step_size": (lambda s: mean(samplers.AnnealedLangevin(3, 2, step_size=s), VP()), 0.1),
    "snr": (lambda snr: mean(samplers.PredictorCorrector(30, corrector="ald", snr=snr), VP()), 0.1),
    "start.t": (lambda t: mean(samplers.Heun(4), VP(), start=samplers.Start(X, t)), 0.5),
    "start.t of steps in t": (
        lambda t: mean(samplers.EulerMaruyama(4), EDM(), start=samplers.Start(X, t)),
        5.0,
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", TRACED)
def test_derivatives_by_hyperparameters_are_finite_differences(name):
    """In batches too; and the traced value is that of the number."""
    fn, at = TRACED[name]
    with jax.enable_x64(True):
        step = 1e-5 * at
        low, middle, high = jax.jit(jax.vmap(fn))(at + step * np.array([-1.0, 0.0, 1.0]))
        slope = jax.jit(jax.grad(fn))(at)
        np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(middle, fn(at), rtol=1e-6)


@pytest.mark.thorough
def test_tolerances_may_be_traced():
    flow = jax.jit(lambda rtol: samplers.ProbabilityFlow(rtol, rtol)(KEY, VP(), score, (3, 2)).nfe)
    score = Gaussian().score_fn(VP())
    assert flow(1e-2) < flow(1e-5)


@pytest.mark.thorough
def test_likelihoods_have_derivatives_by_the_numbers_of_the_sde():
    """In float64; by the closed form of the flow."""

    def found(beta):
        sde = VP(beta_max=beta)
        about = KEY, sde, Gaussian().score_fn(sde), jnp.asarray(X)
        return jnp.sum(sde_lib.log_likelihood(*about, rtol=1e-9, atol=1e-9).log_prob)

    def exact(beta):
        sde = VP(beta_max=beta)
        latent, log_det = Gaussian().flow(sde, jnp.asarray(X), sde.train_t_min)
        return jnp.sum(sde.prior_logp(latent)) + 3 * log_det

    with jax.enable_x64(True):
        slope = jax.jit(lambda beta: jax.jvp(found, (beta,), (1.0,))[1])(15.0)
        np.testing.assert_allclose(slope, jax.grad(exact)(15.0), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda v: mean(samplers.LMS(6), VP(beta_max=v)), "LMS computes its coefficients on the"),
        (lambda v: mean(samplers.DPMSolver(4), VP(beta_max=v)), "DPMSolver computes its coeff"),
        (lambda v: mean(samplers.DDPM(4), VP(beta_max=v)), "DDPM computes its coefficients"),
        (lambda v: mean(samplers.DDIM(4, eta=v), VP()), "DDIM computes its coefficients"),
        (
            lambda v: mean(samplers.AdaptiveSDE(sigma_max=v), VP()),
            "a Brownian path has",
        ),
        (lambda v: samplers.Heun(v), "n_steps is traced, but it must be the same"),
        (lambda v: samplers.Heun(grid=(v, 1.0)), "grid is traced, but given noise levels"),
        (lambda v: sde_lib.chain(9, beta_end=v), "beta_end is traced, but the betas are computed"),
        (lambda v: VP(beta_max=v).levels(9), "beta_max is traced, but discrete levels"),
        (lambda v: sde_lib.likelihood.check_precision(None, None, v), "accuracy is traced"),
    ],
)
def test_what_must_be_a_number_says_so(make, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make, 0.5)


def test_a_traced_number_is_not_checked_and_all_others_are():
    jax.eval_shape(lambda v: mean(samplers.Euler(3, sigma_max=v, s_churn=v), VP(beta_max=v)), 1.0)
    with pytest.raises(ValueError, match="beta_min = 0"):
        jax.eval_shape(lambda v: (VP(t_max=v), VP(beta_min=0.0))[0].sigma(0.1), 1.0)
