"""Tests of the loop that all solvers between noise levels share."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from exact import SDES
from flows import HIGH, LOW, SDE, N, denoised, flow, run

import samplers
import sde_lib
from samplers.solver import NoiseLevelSolver, Plan
from sde_lib.batch import sample_keys

DETERMINISTIC = {
    "ddim": {},
    "deis": {},
    "dpm_2": {"s_churn": 1.0, "s_tmax": 50.0},
    "dpm_fast": {},
    "dpm_solver": {"order": 2},
    "dpmpp_2m": {},
    "dpmpp_2s": {},
    "edm": {"s_churn": 1.0, "s_tmax": 50.0},
    "euler": {},
    "heun": {},
    "lms": {},
    "unipc": {},
}


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("denoise", [False, True])
def test_nfe_is_the_number_of_evaluations_made(name, denoise):
    calls = []

    def score_fn(x, t):
        jax.debug.callback(lambda: calls.append(0))
        return -x

    sampler = samplers.create(name, n_steps=6, denoise=denoise, **DETERMINISTIC[name])
    jax.block_until_ready(run(sampler, score_fn=score_fn, shape=(2, 2), start=None))
    jax.effects_barrier()
    assert sampler.nfe == len(calls)


@pytest.mark.parametrize("name", ["ve", "vp", "subvp", "flow"])
def test_the_flow_is_the_same_under_every_sde(name):
    """A state y of the noise level HIGH ends at one x_0, whatever alpha scales it by."""
    sde, (y, end) = SDES[name], flow()
    t = sde.inverse_noise_level(jnp.float32(HIGH))
    start = samplers.Start(sde.alpha(t) * jnp.asarray(y, jnp.float32), float(t))
    samples = run(samplers.UniPC(40, order=3, sigma_min=LOW), sde, start=start)
    np.testing.assert_allclose(samples.x, denoised(end, LOW), atol=5e-4)


def test_a_model_of_vp_in_ve_coordinates_ends_where_its_flow_does():
    """s(y, l) = alpha s_VP(alpha y, t): Karras et al. 2022, Appendix B, by hand."""
    vp, gaussian = SDES["vp"], Gaussian()
    score_fn = gaussian.score_fn(vp)
    high, low = (float(vp.noise_level(t)) for t in (vp.t_max, vp.t_min))
    ve = sde_lib.EDM(t_max=high, t_min=low, train_t_min=low)

    def score_of_y(y, level):
        t = vp.inverse_noise_level(level)
        alpha = vp.alpha(t)[:, None]
        return alpha * score_fn(alpha * y, t)

    mean, std = gaussian.marginal(vp, vp.t_max)
    end_mean, end_std = gaussian.marginal(vp, vp.t_min)
    exact = end_mean + end_std / std * (vp.prior_sample(jax.random.key(0), (N, 2)) - mean)
    y = run(samplers.UniPC(40, order=3, denoise=False), ve, score_of_y, start=None).x
    np.testing.assert_allclose(vp.alpha(vp.t_min) * y, exact, atol=2e-3)


def test_frames_are_the_states_on_the_way():
    sampler = samplers.DPMpp2M(9, sigma_min=LOW, denoise=False)
    samples = run(sampler, n_frames=3)
    np.testing.assert_array_equal(samples.path[-1], samples.x)
    levels = np.linspace(HIGH ** (1 / 7), LOW ** (1 / 7), 10) ** 7
    third = run(samplers.DPMpp2M(3, tuple(levels[:4]), denoise=False))
    np.testing.assert_allclose(samples.path[0], third.x, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "sampler", [samplers.EDM(6, s_churn=2.0, s_tmax=50.0), samplers.UniPC(6)], ids=["edm", "unipc"]
)
def test_sample_i_does_not_depend_on_its_batch(sampler):
    together = run(sampler, start=None).x
    alone = run(sampler, shape=(1, 2), start=None, first_index=9).x
    np.testing.assert_allclose(together[9], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "sampler",
    [samplers.Euler(1, sigma_max=5.0), samplers.Euler(1, (5.0,))],
    ids=["sigma_max", "given levels"],
)
def test_the_start_has_the_noise_of_the_first_level(sampler):
    """One step: D of the prior's draw, scaled."""
    y = 5 / 80 * np.asarray(SDE.prior_sample(jax.random.key(0), (N, 2)), np.float64)
    samples = run(sampler, start=None)
    assert samples.nfe == 1
    np.testing.assert_allclose(samples.x, denoised(y, 5.0), atol=1e-5)


def test_noise_levels_outside_the_range_of_training_warn():
    for sampler in (
        samplers.Euler(2, sigma_max=100.0),
        samplers.Euler(2, sigma_min=0.001),
        samplers.Euler(2, (100.0, 0.002)),
        samplers.DPMAdaptive(sigma_max=100.0),
        samplers.EDM(18, s_churn=5.0),
    ):
        with pytest.warns(UserWarning, match=r"from \S+ to \S+, training those from 80 to 0.002"):
            trace(sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(samplers.Euler(2))
        trace(samplers.Euler(2, sigma_max=80.0, sigma_min=0.002))
        trace(samplers.EDM(18, s_churn=5.0, s_tmax=50.0))


def test_a_step_of_heun_with_two_score_functions_is_the_formula():
    first, later = (lambda x, t, c=c: -c * x / (1 + t[:, None]) for c in (0.5, 0.2))
    sampler = samplers.Heun(1, (2.0, 1.0), denoise=False)
    start = samplers.Start(jnp.ones((1, 2)), 2.0)
    slope = 2.0 * 0.5 / 3
    there = 1.0 * 0.2 / 2 * (1 - slope)
    x = run(sampler, SDE, (first, later), (1, 2), start=start).x
    np.testing.assert_allclose(x, np.full((1, 2), 1 - (slope + there) / 2), rtol=1e-6)
    x = run(samplers.Heun(1, (2.0,)), SDE, (first, later), (1, 2), start=start).x
    np.testing.assert_allclose(x, np.full((1, 2), 1 - 2.0 * slope), rtol=1e-6)


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.AdaptiveSDE(),
        samplers.AnnealedLangevin(),
        samplers.DPMAdaptive(),
        samplers.DPMFast(),
        samplers.EulerMaruyama(),
        samplers.PredictorCorrector(),
        samplers.ProbabilityFlow(),
        samplers.StochasticRungeKutta(),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_other_samplers_refuse_a_tuple(sampler):
    with pytest.raises(ValueError, match=r"score_fn is a tuple, .* take a solver of such steps"):
        trace(sampler, (lambda x, t: x,) * 2)


@pytest.mark.thorough
@pytest.mark.parametrize("sampler", [samplers.Heun(6), samplers.DPMpp2M(6), samplers.DPMppSDE(6)])
def test_steps_one_by_one_are_those_of_the_sampler(sampler):
    sde, score_fn, shape, key = SDE, Gaussian().score_fn(SDE), (3, 2), jax.random.key(0)
    keys = sample_keys(key, 3)
    levels = sampler.levels(sde, sde.t_max, sde.t_min)
    y, past = sde.prior_sample(key, shape), jnp.zeros((sampler.n_past, *shape))
    move, w = sampler.mover(sde, score_fn, keys, levels, shape)
    move = jax.jit(move)
    states = []
    for k in range(sampler.n_moves):
        y, past, w = move(k, y, past, w)
        states.append(y)  # EDM's alpha is 1
    path = run(sampler, shape=shape, score_fn=score_fn, start=None, n_frames=5).path
    np.testing.assert_allclose(path, states, rtol=1e-5, atol=1e-5)


def trace(sampler, score_fn=lambda x, t: x, **options):
    return jax.eval_shape(
        lambda key: sampler(key, SDE, score_fn, (2, 2), **options), jax.random.key(0)
    )


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="n_steps is 0: it must be at least 1"):
        samplers.Euler(0)
    with pytest.raises(
        ValueError, match="grid gives 3 noise levels: n_steps = 3, with denoise = F"
    ):
        samplers.Euler(3, (3.0, 2.0, 1.0), denoise=False)
    with pytest.raises(ValueError, match="sigma_max is 0: it must be positive"):
        samplers.Euler(sigma_max=0.0)
    with pytest.raises(ValueError, match="sigma_max is 3: with levels given as grid"):
        samplers.Euler(2, (3.0, 1.0), sigma_max=3.0)
    with pytest.raises(ValueError, match="n_frames is 18: there are only 17 steps to record"):
        trace(samplers.Euler(), n_frames=18)
    with pytest.raises(ValueError, match="it must return the shape of x"):
        trace(samplers.Euler(), lambda x, t: t)
    with pytest.raises(ValueError, match="grid begins with 3, `start` with a noise level of 10"):
        trace(samplers.Euler(2, (3.0, 1.0)), start=samplers.Start(jnp.zeros((2, 2)), HIGH))
    with pytest.raises(ValueError, match="starts at the noise level 80 and ends at 90"):
        trace(samplers.Euler(sigma_min=90.0))


@dataclasses.dataclass(frozen=True)
class Own(NoiseLevelSolver):
    """Euler's method, as a user might write it, with a mistake."""

    mistake: str = ""

    def plan(self, now, then):
        made = Plan(now[:, None], then - now)
        return {
            "flat": made._replace(evaluations=now),
            "few": made._replace(evaluations=made.evaluations[1:]),
            "coefficients": made._replace(coefficients=(then - now)[1:]),
            "nan": made._replace(coefficients=np.log(now - now[0])),
            "negative": made._replace(evaluations=-made.evaluations),
        }.get(self.mistake, made)

    def step(self, model, y, c, past, z):
        y += c * model.noise(y)
        return y if self.mistake == "step" else (y, past)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("flat", r"Own.plan returned evaluations of the shape \(17,\): it must be \[17, columns\]"),
        ("few", r"Own.plan returned evaluations of the shape \(16, 1\)"),
        ("coefficients", r"coefficients of the shape \(16,\): it must be \[17, \.\.\.\]"),
        ("nan", r"Own.plan returned coefficients that are not finite"),
        ("negative", r"evaluations at noise levels that are not positive"),
        ("step", r"Own.step returned \(2, 3\): it must return \(y, past\)"),
    ],
)
def test_a_solver_of_ones_own_is_told_its_mistake(mistake, message):
    draw = jax.random.key(0), sde_lib.VP(), lambda x, t: -x, (2, 3)
    assert Own()(*draw).nfe == 18
    with pytest.raises(ValueError, match=message):
        Own(mistake=mistake)(*draw)
