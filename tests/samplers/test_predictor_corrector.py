import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers

STEPS = golden.load("sde_steps")
X = golden.channels_last(STEPS["x"])
NOISE = [golden.channels_last(noise) for noise in STEPS["noise"]]
PREDICTORS = ("euler_maruyama", "reverse_diffusion", "ancestral_sampling")


def draw(sampler, sde, data, n=20_000, seed=0):
    score_fn = data.score_fn(sde)
    run = jax.jit(lambda key: sampler(key, sde, score_fn, (n, 2)))
    return np.asarray(run(jax.random.key(seed)).x, np.float64)


def assert_golden(name, k, step, x, x_mean):
    for quantity, value in (("x", x), ("x_mean", x_mean)):
        reference = golden.channels_last(STEPS[f"{name}/{k}/{step}/{quantity}"])
        golden.assert_close(value, reference, 2e-4)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SDES)
def test_one_predictor_step_agrees_with_the_published_code(name, k):
    sde, t = SDES[name], jnp.full(4, STEPS["t"][k])
    score_fn, seen = Gaussian().score_fn(sde), 0
    for predictor in PREDICTORS:
        step = samplers.PREDICTORS[predictor]
        if f"{name}/{k}/{predictor}/x" in STEPS:
            assert_golden(name, k, predictor, *step(sde, score_fn, X, t, 1e-3, NOISE[0]))
            seen += 1
    flow = samplers.PREDICTORS["reverse_diffusion"](
        sde, score_fn, X, t, 1e-3, NOISE[0], probability_flow=True
    )
    assert_golden(name, k, "reverse_diffusion_flow", *flow)
    assert seen == (2 if name == "subvp" else 3)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["ve", "vp"])  # the published code crashes on subvp
@pytest.mark.parametrize(("corrector", "options"), [("langevin", {"norm": "batch"}), ("ald", {})])
def test_corrector_steps_agree_with_the_published_code(name, k, corrector, options):
    sde, t = SDES[name], jnp.full(4, STEPS["t"][k])
    x = x_mean = X
    for z in NOISE:
        step = samplers.CORRECTORS[corrector]
        x, x_mean = step(sde, Gaussian().score_fn(sde), x, t, z, 0.16, **options)
    assert_golden(name, k, corrector, x, x_mean)


@pytest.mark.parametrize("corrector", samplers.CORRECTORS)
@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("name", SDES)
def test_moments_of_gaussian_data(name, predictor, corrector):
    """Mean to Monte-Carlo error; variance to that and 5%: the correctors' own bias (ULA's)."""
    gaussian = Gaussian()
    sampler = samplers.PredictorCorrector(500, predictor, corrector)
    x = draw(sampler, SDES[name], gaussian, n=8000)
    assert x.mean() == pytest.approx(gaussian.mean, abs=4 * gaussian.std / np.sqrt(x.size))
    bias = 0.02 if corrector == "none" else 0.05
    monte_carlo = 4 * np.sqrt(2 / x.size)
    assert x.var() == pytest.approx(gaussian.std**2, rel=bias + monte_carlo)


@pytest.mark.parametrize("corrector", ["none", "langevin"])
@pytest.mark.parametrize(
    "name", [*sorted({*SDES} - {"subvp"}), pytest.param("subvp", marks=pytest.mark.slow)]
)
def test_moments_of_a_mixture(name, corrector):
    mixture = Mixture()
    sampler = samplers.PredictorCorrector(1000, corrector=corrector)
    x = draw(sampler, SDES[name], mixture)
    spread = np.sqrt(np.diag(mixture.covariance))
    np.testing.assert_array_less(
        np.abs(x.mean(0) - mixture.mean), 4 * spread / np.sqrt(len(x)) + 0.01
    )
    np.testing.assert_allclose(np.cov(x.T), mixture.covariance, atol=0.05)


@pytest.mark.parametrize("norm", ["sample", "batch"])
def test_annealed_langevin_alone_finds_gaussian_data(norm):
    """No predictor: many corrector steps at each of many levels (Song & Ermon 2019)."""
    gaussian = Gaussian()
    sampler = samplers.PredictorCorrector(
        200, "none", "langevin", n_corrector_steps=5, norm=norm, snr=0.2
    )
    x = draw(sampler, SDES["ve"], gaussian, n=5000)
    assert x.mean() == pytest.approx(gaussian.mean, abs=0.05)
    assert x.std() == pytest.approx(gaussian.std, rel=0.1)


@pytest.mark.parametrize("predictor", ["euler_maruyama", "reverse_diffusion"])
def test_the_flow_of_a_predictor_converges_at_first_order(predictor):
    """Deterministic steps: the error against the exact flow of the prior halves with the step."""
    sde, gaussian = SDES["vp"], Gaussian()
    x = sde.prior_sample(jax.random.key(0), (64, 2))
    mean, std = gaussian.marginal(sde, sde.t_max)
    end_mean, end_std = gaussian.marginal(sde, sde.t_min)
    exact = end_mean + end_std / std * (x - mean)
    errors = []
    for n_steps in (200, 400, 800):
        sampler = samplers.PredictorCorrector(
            n_steps, predictor, "none", denoise=False, probability_flow=True
        )
        y = sampler(jax.random.key(0), sde, gaussian.score_fn(sde), x.shape).x
        errors.append(float(jnp.sqrt(jnp.mean((y - exact) ** 2))))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 1, atol=0.15)


@pytest.mark.parametrize("n_steps", [1, 7, 50])
@pytest.mark.parametrize("name", SDES)
def test_the_last_step_ends_at_t_min(name, n_steps):
    sde, times = SDES[name], []

    def score_fn(x, t):
        jax.debug.callback(lambda t: times.append(float(t)), t[0], ordered=True)
        return jnp.zeros_like(x)

    sampler = samplers.PredictorCorrector(
        n_steps, "euler_maruyama", "none", denoise=False, probability_flow=True
    )
    sampler(jax.random.key(0), sde, score_fn, (1, 1))
    jax.effects_barrier()
    dt = (sde.t_max - sde.t_min) / n_steps
    np.testing.assert_allclose(times, sde.t_max - dt * np.arange(n_steps), rtol=1e-5)
    assert times[-1] - dt == pytest.approx(sde.t_min, abs=1e-6)


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("corrector", samplers.CORRECTORS)
@pytest.mark.parametrize("predictor", samplers.PREDICTORS)
def test_nfe_is_the_number_of_evaluations_really_made(predictor, corrector, denoise):
    sde, calls = SDES["vp"], []

    def score_fn(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return -x

    sampler = samplers.PredictorCorrector(
        30, predictor, corrector, n_corrector_steps=2, denoise=denoise
    )
    samples = sampler(jax.random.key(0), sde, score_fn, (2, 2))
    jax.effects_barrier()
    assert samples.nfe == len(calls)


@pytest.mark.parametrize("corrector", ["langevin", "ald"])
def test_sample_i_does_not_depend_on_its_batch(corrector):
    sde, data = SDES["ve"], Mixture()
    sampler = samplers.PredictorCorrector(50, corrector=corrector)
    score_fn, key = data.score_fn(sde), jax.random.key(3)
    together = sampler(key, sde, score_fn, (8, 2)).x
    alone = sampler(key, sde, score_fn, (1, 2), first_index=6).x
    np.testing.assert_allclose(together[6], alone[0], rtol=1e-5, atol=1e-5)


def test_path_ends_just_before_denoising_and_has_even_frames():
    sde, data = SDES["vp"], Gaussian()
    sampler = samplers.PredictorCorrector(100, corrector="none", denoise=False)
    samples = sampler(jax.random.key(0), sde, data.score_fn(sde), (3, 2), n_frames=4)
    assert samples.path.shape == (4, 3, 2)
    np.testing.assert_array_equal(samples.path[-1], samples.x)
    with pytest.raises(ValueError, match="only 100 steps"):
        sampler(jax.random.key(0), sde, data.score_fn(sde), (3, 2), n_frames=101)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictor": "reverse_difusion"}, "did you mean 'reverse_diffusion'"),
        ({"corrector": "langevine"}, "did you mean 'langevin'"),
        ({"norm": "both"}, "norm 'both' is unknown"),
        ({"n_steps": 1}, "n_steps is 1: it must be at least 2"),
        ({"n_corrector_steps": -1}, "n_corrector_steps is -1"),
        ({"snr": 0.0}, "snr is 0.0"),
        ({"predictor": "ancestral_sampling", "probability_flow": True}, "has no probability flow"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.PredictorCorrector(**options)


def test_samplers_are_values():
    sampler = samplers.PredictorCorrector(n_steps=10)
    assert sampler == dataclasses.replace(sampler)
    assert len({sampler, samplers.PredictorCorrector(n_steps=10)}) == 1


def test_a_score_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="must return the shape of x"):
        samplers.PredictorCorrector()(jax.random.key(0), SDES["vp"], lambda x, t: x[:, :1], (4, 2))
