import dataclasses
from functools import partial

import affine
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers
import sde_lib
from samplers.predictor_corrector import ACCEPT, correctors, mala
from sde_lib.batch import fold_in, normal, sample_keys

STEPS = golden.load("sde_steps")
X = golden.channels_last(STEPS["x"])
NOISE = [golden.channels_last(noise) for noise in STEPS["noise"]]
PREDICTORS = ("euler_maruyama", "reverse_diffusion", "ancestral_sampling")


def draw(sampler, sde, data, n, seed=0):
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


@pytest.mark.parametrize("corrector", ["none", "ald"])
@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("name", SDES)
def test_moments_of_gaussian_data(name, predictor, corrector):
    """Moments of affine steps, without Monte-Carlo error: the bias is that of 500 steps."""
    gaussian, sde = Gaussian(), SDES[name]
    sampler = samplers.PredictorCorrector(500, predictor, corrector)
    mean, variance = affine.moments(sampler, sde, gaussian.score_fn(sde))
    assert mean[0] == pytest.approx(gaussian.mean, abs=0.002)
    assert variance[0, 0] == pytest.approx(gaussian.std**2, rel=0.025)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "predictor"),
    [("ve", "ancestral_sampling"), ("vp", "euler_maruyama"), ("subvp", "reverse_diffusion")],
)
def test_moments_of_gaussian_data_with_langevin_steps(name, predictor):
    """Langevin steps depend on the norm of the score. 5% is the bias of steps of finite size."""
    gaussian = Gaussian()
    x = draw(samplers.PredictorCorrector(200, predictor), SDES[name], gaussian, n=6000)
    assert x.mean() == pytest.approx(gaussian.mean, abs=4 * gaussian.std / np.sqrt(x.size))
    assert x.var() == pytest.approx(gaussian.std**2, rel=0.05 + 4 * np.sqrt(2 / x.size))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "predictor", "corrector", "options"),
    [
        ("ve", "ancestral_sampling", "langevin", {}),
        ("ve", "reverse_diffusion", "ald", {"denoise": False}),
        ("subvp", "euler_maruyama", "none", {"denoise": False}),
        ("vp", "euler_maruyama", "ald", {"probability_flow": True}),
    ],
)
def test_the_sampler_is_a_loop_of_corrector_and_predictor_steps(
    name, predictor, corrector, options
):
    sde, key, shape, n = SDES[name], jax.random.key(2), (3, 2), 4
    score_fn = jax.jit(Gaussian().score_fn(sde))
    sampler = samplers.PredictorCorrector(
        n, predictor, corrector, n_corrector_steps=2, snr=0.2, **options
    )
    keys, x = sample_keys(key, 3), sde.prior_sample(key, shape)
    times = np.linspace(sde.t_max, sde.t_min, n + (not sampler.denoise))
    for k, now in enumerate(times[:n]):
        t, step_keys = jnp.full(3, now), fold_in(keys, k)
        for i in (1, 2):
            z = normal(fold_in(step_keys, i), shape)
            x, _ = samplers.CORRECTORS[corrector](sde, score_fn, x, t, z, 0.2)
        if k < sampler.n_steps - sampler.denoise:
            x, _ = samplers.PREDICTORS[predictor](
                sde,
                score_fn,
                x,
                t,
                times[0] - times[1],
                normal(fold_in(step_keys, 0), shape),
                probability_flow=sampler.probability_flow,
            )
        else:
            x = sde.denoise(x, t, score_fn(x, t))
    np.testing.assert_allclose(sampler(key, sde, score_fn, shape).x, x, rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("corrector", ["none", "langevin"])
@pytest.mark.parametrize(
    "name", [*sorted({*SDES} - {"subvp"}), pytest.param("subvp", marks=pytest.mark.slow)]
)
def test_moments_of_a_mixture(name, corrector):
    mixture = Mixture()
    x = draw(samplers.PredictorCorrector(400, corrector=corrector), SDES[name], mixture, n=5000)
    spread = np.sqrt(np.diag(mixture.covariance))
    np.testing.assert_array_less(
        np.abs(x.mean(0) - mixture.mean), 4 * spread / np.sqrt(len(x)) + 0.01
    )
    np.testing.assert_allclose(np.cov(x.T), mixture.covariance, atol=0.05)


@pytest.mark.thorough
@pytest.mark.parametrize("norm", ["sample", "batch"])
def test_annealed_langevin_alone_finds_gaussian_data(norm):
    """No predictor: many corrector steps at each of many levels (Song & Ermon 2019)."""
    gaussian = Gaussian()
    sampler = samplers.PredictorCorrector(
        200, "none", "langevin", n_corrector_steps=5, norm=norm, snr=0.2
    )
    x = draw(sampler, SDES["ve"], gaussian, n=1000)
    assert x.mean() == pytest.approx(gaussian.mean, abs=0.05)
    assert x.std() == pytest.approx(gaussian.std, rel=0.1)


@pytest.mark.parametrize("predictor", ["euler_maruyama", "reverse_diffusion"])
def test_the_flow_of_a_predictor_converges_at_first_order(predictor):
    """Affine steps: the errors against the exact flow of the prior halve with the step."""
    sde, gaussian = SDES["vp"], Gaussian()
    mean, std = (np.float64(a) for a in gaussian.marginal(sde, sde.t_max))
    end_mean, end_std = (np.float64(a) for a in gaussian.marginal(sde, sde.t_min))
    errors = []
    for n_steps in (200, 400, 800):
        sampler = samplers.PredictorCorrector(
            n_steps, predictor, "none", denoise=False, probability_flow=True
        )
        x, variance = affine.moments(sampler, sde, gaussian.score_fn(sde))
        scale = np.sqrt(variance[0, 0]) - end_std / std * sde.prior_std
        errors.append(np.hypot(x[0] - (end_mean - end_std / std * mean), scale))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 1, atol=0.15)


@pytest.mark.parametrize("n_steps", [1, 7, 20])
@pytest.mark.parametrize("name", SDES)
def test_the_last_step_ends_at_t_min(name, n_steps):
    """Counted op by op: a jitted program would be traced once."""
    sde, times = SDES[name], []

    def score_fn(x, t):
        if not isinstance(t, jax.core.Tracer):  # not in the check of shapes
            times.append(float(t[0]))
        return jnp.zeros_like(x)

    sampler = samplers.PredictorCorrector(
        n_steps, "euler_maruyama", "none", denoise=False, probability_flow=True
    )
    with jax.disable_jit():
        sampler(jax.random.key(0), sde, score_fn, (1, 1))
    dt = (sde.t_max - sde.t_min) / n_steps
    np.testing.assert_allclose(times, sde.t_max - dt * np.arange(n_steps), rtol=1e-5)
    assert times[-1] - dt == pytest.approx(sde.t_min, abs=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("corrector", correctors())
@pytest.mark.parametrize("predictor", samplers.PREDICTORS)
def test_nfe_is_the_number_of_evaluations_really_made(predictor, corrector, denoise):
    sde, calls = SDES["ve"], []

    def score_fn(x, t):
        if not isinstance(t, jax.core.Tracer):  # not in the check of shapes
            calls.append(1)
        return -x

    if corrector == "mala":
        score_fn = sde_lib.ScoreAndEnergy(lambda x, t, s=score_fn: (s(x, t), -jnp.sum(x**2, 1) / 2))
    sampler = samplers.PredictorCorrector(
        4, predictor, corrector, n_corrector_steps=2, denoise=denoise
    )
    with jax.disable_jit():
        samples = sampler(jax.random.key(0), sde, score_fn, (2, 2))
    assert samples.nfe == len(calls)


MIXTURE = sde_lib.GaussianMixture((0.3, 0.7), ((-1.0, 0.5), (1.5, 0.0)), 0.4)


@pytest.mark.thorough
def test_metropolis_leaves_a_mixture_as_it_is_and_langevin_does_not():
    """The mean log density of chains that begin with exact samples, in standard errors."""
    sde, n, snr = sde_lib.EDM(), 20_000, 0.6
    t = jnp.full(n, 0.5)
    both = MIXTURE.score_and_energy(sde)
    x = MIXTURE.sample(jax.random.key(0), n) + 0.5 * jax.random.normal(jax.random.key(1), (n, 2))

    def step(x, key):
        plain, metropolis = x
        key_z, key_u = jax.random.split(key)
        z, u = jax.random.normal(key_z, (n, 2)), jax.random.uniform(key_u, (n,))
        after = mala(sde, both, metropolis, t, z, snr, u)[0]
        moved = jnp.mean(jnp.any(after != metropolis, axis=1))
        plain = samplers.CORRECTORS["ald"](sde, both, plain, t, z, snr)[0]
        return (plain, after), moved

    run = jax.jit(lambda x: jax.lax.scan(step, (x, x), jax.random.split(jax.random.key(2), 60)))
    ends, moved = run(x)
    log_density = jax.jit(lambda x: both.both(x, t)[1])
    exact = np.asarray(log_density(x))
    plain, metropolis = (np.asarray(log_density(end)) for end in ends)
    error = exact.std() * np.sqrt(2 / n)
    assert abs(metropolis.mean() - exact.mean()) < 4 * error
    assert plain.mean() - exact.mean() < -15 * error
    assert 0.5 < np.mean(moved) < 0.95


@pytest.mark.thorough
@pytest.mark.parametrize("denoise", [False, True])
def test_the_sampler_with_metropolis_is_a_loop_of_its_steps(denoise):
    """Its evaluations are shared: n + 1 at each time, in place of 2 n + 1."""
    sde, key, shape, n, n_each = sde_lib.EDM(t_max=2.0), jax.random.key(2), (5, 2), 3, 2
    both = MIXTURE.score_and_energy(sde)
    sampler = samplers.PredictorCorrector(
        n, "reverse_diffusion", "mala", n_corrector_steps=n_each, snr=0.7, denoise=denoise
    )
    keys, x = sample_keys(key, 5), sde.prior_sample(key, shape)
    times, corrected = (
        sde.times(sde.t_max, sde.t_min, n - denoise),
        jax.jit(partial(mala, sde, both)),
    )
    for k, now in enumerate(times[:n]):
        t, step_keys = jnp.full(5, now), fold_in(keys, k)
        for i in range(1, n_each + 1):
            u = jax.vmap(jax.random.uniform)(fold_in(fold_in(step_keys, i), ACCEPT))
            x, _ = corrected(x, t, normal(fold_in(step_keys, i), shape), 0.7, u)
        if denoise and k == n - 1:
            x = sde.denoise(x, t, both(x, t))
            break
        z, dt = normal(fold_in(step_keys, 0), shape), now - times[k + 1]
        x, _ = samplers.PREDICTORS["reverse_diffusion"](sde, both, x, t, dt, z)
    samples = jax.jit(lambda: sampler(key, sde, both, shape))()
    np.testing.assert_allclose(samples.x, x, rtol=1e-4, atol=1e-5)
    assert samples.nfe == n * (n_each + 1)


def test_metropolis_without_an_energy_or_steps_is_refused():
    sde, sampler = SDES["ve"], samplers.PredictorCorrector(2, corrector="mala")
    with pytest.raises(ValueError, match="'mala' needs an energy: a score_fn that is"):
        sampler(jax.random.key(0), sde, Gaussian().score_fn(sde), (1, 2))
    with pytest.raises(ValueError, match="n_corrector_steps is 0"):
        dataclasses.replace(sampler, n_corrector_steps=0)


@pytest.mark.thorough
@pytest.mark.parametrize("corrector", ["langevin", "ald"])
def test_sample_i_does_not_depend_on_its_batch(corrector):
    sde, data = SDES["ve"], Mixture()
    sampler, score_fn = samplers.PredictorCorrector(20, corrector=corrector), data.score_fn(sde)
    together, alone = (
        jax.jit(lambda n=n, i=i: sampler(jax.random.key(3), sde, score_fn, (n, 2), i).x)()
        for n, i in ((8, 0), (1, 6))
    )
    np.testing.assert_allclose(together[6], alone[0], rtol=1e-5, atol=1e-5)


def test_path_ends_just_before_denoising_and_has_even_frames():
    sde, data = SDES["vp"], Gaussian()
    sampler = samplers.PredictorCorrector(100, corrector="none", denoise=False)
    samples = jax.jit(lambda key: sampler(key, sde, data.score_fn(sde), (3, 2), n_frames=4))(
        jax.random.key(0)
    )
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
