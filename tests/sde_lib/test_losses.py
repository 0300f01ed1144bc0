import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian

import sde_lib
from sde_lib.losses import smallest_time

N = 20_000


X = Gaussian().sample(jax.random.key(100), (N, 3))


@functools.cache
def losses(sde, n=N, factor=1.0, **options):
    """The loss of `factor` times the exact score, and its metrics.

    Op by op: the tests share shapes, so that each operation is compiled once for all of them.
    """
    score_fn = Gaussian().score_fn(sde)
    return sde_lib.denoising_score_matching(
        jax.random.key(0), sde, lambda x, t: factor * score_fn(x, t), X[:n], **options
    )


def exact_error(sde, t):
    """E (sigma score + z)^2 a dimension, of the exact score: 1 - sigma^2 / Var x_t."""
    _, std = Gaussian().marginal(sde, t)
    return 1 - (sde.sigma(t) / std) ** 2


def standard_error(values):
    return float(np.std(values) / np.sqrt(len(values)))


@pytest.mark.parametrize("name", SDES)
def test_error_at_each_time_is_the_closed_form(name):
    _, metrics = losses(SDES[name])
    difference = metrics["error"] - exact_error(SDES[name], metrics["t"])
    assert abs(float(difference.mean())) < 4 * standard_error(difference)


@pytest.mark.parametrize("name", SDES)
def test_the_exact_score_minimises_the_loss(name):
    sde = SDES[name]
    at_minimum, _ = losses(sde)
    for factor in (0.9, 1.1):
        off, _ = losses(sde, factor=factor)
        assert float(jnp.mean(off - at_minimum)) > 2 * standard_error(off - at_minimum)


@pytest.mark.parametrize("reduce_mean", [False, True])
def test_the_best_log_variance_is_that_of_the_weighted_error(reduce_mean):
    """At one noise level: the loss is least at u = log E[w r^2], where it is 1 + u."""
    sde, weighting = sde_lib.EDM(), sde_lib.weighting.create("edm")
    density = lambda u: jnp.full_like(u, -2 * np.log(0.4))  # noqa: E731
    about = {"noise_density": density, "weighting": weighting, "reduce_mean": reduce_mean}
    _, metrics = losses(sde, **about)
    assert weighting is not None
    weight = float(weighting(jnp.asarray(-2 * np.log(0.4))))
    scale = 1.0 if reduce_mean else 1.5
    found = float(np.log(weight * metrics["error"].mean()))
    exact = float(np.log(weight * exact_error(sde, 0.4)))
    assert found == pytest.approx(exact, abs=4 * standard_error(metrics["error"]) / 0.1)

    def loss(u):
        values, _ = losses.__wrapped__(sde, log_variance=lambda t: jnp.full_like(t, u), **about)
        return jnp.mean(values) / scale

    value, slope = jax.value_and_grad(loss)(found)
    assert float(value) == pytest.approx(1 + found, abs=1e-4)
    assert float(slope) == pytest.approx(0, abs=1e-4)
    assert float(loss(found + 0.3)) > float(value) < float(loss(found - 0.3))


def test_reductions_differ_by_half_the_dimensions():
    total, _ = losses(SDES["vp"])
    mean, _ = losses(SDES["vp"], reduce_mean=True)
    np.testing.assert_allclose(total, 1.5 * mean, rtol=1e-6)


@pytest.mark.parametrize("name", SDES)
def test_likelihood_weighting_has_its_closed_form_mean(name):
    """t_min where the integral of g^2 / sigma^2 does not hang on a few samples near 0."""
    family = type(SDES[name])
    sde = family(train_t_min=0.01)
    weighted, _ = losses(sde, likelihood_weighting=True)
    sampled, _ = losses(sde, likelihood_weighting=True, importance_sampling=True)
    t = np.linspace(0.01, 1, 100_001)
    weight = (sde.diffusion(t) / sde.sigma(t)) ** 2
    exact = 1.5 * float(np.mean(np.asarray(weight * exact_error(sde, t), np.float64)))
    assert abs(float(weighted.mean()) - exact) < 4 * standard_error(weighted)
    assert abs(float(sampled.mean()) - exact) < 4 * standard_error(sampled)


def test_importance_sampling_lowers_the_variance_of_the_weighted_loss():
    """At t down to 1e-5 under VP: by 20 or more (measured: 74)."""
    weighted, _ = losses(SDES["vp"], likelihood_weighting=True)
    sampled, _ = losses(SDES["vp"], likelihood_weighting=True, importance_sampling=True)
    assert float(jnp.var(weighted)) > 20 * float(jnp.var(sampled))


@pytest.mark.thorough
def test_stratified_times_lower_the_variance_of_the_batch_mean():
    """Variance of the mean over batches of 128 under VP: by 1.5 or more (measured: 2.05)."""

    @jax.jit
    def batch_means(keys):
        def one(key, stratified):
            sde, gaussian = SDES["vp"], Gaussian()
            x = gaussian.sample(key, (128, 3))
            score_fn = gaussian.score_fn(sde)
            return jnp.mean(
                sde_lib.denoising_score_matching(key, sde, score_fn, x, stratified=stratified)[0]
            )

        return jax.vmap(lambda k: one(k, False))(keys), jax.vmap(lambda k: one(k, True))(keys)

    plain, stratified = batch_means(jax.random.split(jax.random.key(0), 500))
    error = np.hypot(standard_error(plain), standard_error(stratified))
    assert abs(float(plain.mean() - stratified.mean())) < 4 * error
    assert float(plain.var()) > 1.5 * float(stratified.var())


def test_stratified_times_fill_every_stratum():
    """Sample i of a batch of 64, given as a part of several, lies in stratum i % 64."""
    _, metrics = losses(SDES["vp"], stratified=True, n_strata=64)
    strata = np.floor((np.asarray(metrics["t"], np.float64) - 1e-5) / (1 - 1e-5) * 64)
    np.testing.assert_array_equal(strata, np.arange(N) % 64)


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_discrete_times_are_the_levels_each_as_often(name):
    sde, n_levels = SDES[name], 50
    _, metrics = losses(sde, n_levels=n_levels)
    levels = np.sort(sde.levels(n_levels))
    log_snr = np.asarray(sde.log_snr(metrics["t"]))
    nearest = np.abs(log_snr[:, None] - levels).argmin(axis=1)
    np.testing.assert_allclose(log_snr, levels[nearest], rtol=1e-5, atol=1e-5)
    counts, expected = np.bincount(nearest, minlength=n_levels), N / n_levels
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_discrete_error_is_the_closed_form_at_each_level(name):
    """SMLD's sigma^2 |s + z / sigma|^2 and DDPM's |epsilon - z|^2: one formula, their levels."""
    _, metrics = losses(SDES[name], n_levels=50)
    difference = metrics["error"] - exact_error(SDES[name], metrics["t"])
    assert abs(float(difference.mean())) < 4 * standard_error(difference)


@pytest.mark.thorough
@pytest.mark.parametrize("stratified", [False, True])
def test_a_sample_has_its_loss_in_any_part_of_the_batch(stratified):
    sde, gaussian, x = SDES["vp"], Gaussian(), X[:6]

    @jax.jit
    def loss(x, first):
        return sde_lib.denoising_score_matching(
            jax.random.key(0),
            sde,
            gaussian.score_fn(sde),
            x,
            stratified=stratified,
            first_index=first,
            n_strata=6,
        )[0]

    parts = [loss(x[first : first + 2], first) for first in (0, 2, 4)]
    np.testing.assert_allclose(np.concatenate(parts), loss(x, 0), rtol=1e-5)


def test_importance_sampling_of_levels_is_refused():
    options = {"likelihood_weighting": True, "importance_sampling": True, "n_levels": 100}
    with pytest.raises(ValueError, match="leave it out at n_levels"):
        losses(SDES["vp"], n=4, **options)


def test_importance_sampling_alone_is_refused():
    with pytest.raises(ValueError, match="belongs to likelihood_weighting"):
        losses(SDES["vp"], n=4, importance_sampling=True)


def test_importance_sampling_of_likelihood_is_the_log_uniform_density():
    """The draws of t are equal, and a constant weight keeps the expectation."""
    sde = SDES["vp"]
    density = sde_lib.noise_density.create("log_uniform", sde)
    weighted, sampled = losses(sde, likelihood_weighting=True, importance_sampling=True)
    plain, drawn = losses(sde, noise_density=density)
    np.testing.assert_array_equal(sampled["t"], drawn["t"])
    log_snr = sde.log_snr(np.float32([sde.train_t_min, sde.t_max]))
    np.testing.assert_allclose(weighted, plain * (log_snr[0] - log_snr[1]), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": jnp.exp, "likelihood_weighting": True}, "is a weighting of its own"),
        (
            {"noise_density": jnp.log, "likelihood_weighting": True, "importance_sampling": True},
            "is a noise density of its own",
        ),
        ({"noise_density": jnp.log, "n_levels": 100}, "noise_density draws a continuous t"),
    ],
)
def test_two_densities_or_weightings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        losses(SDES["vp"], n=4, **options)


@pytest.mark.parametrize("name", SDES)
def test_input_perturbation_adds_to_the_noise_of_the_input_alone(name):
    """Measured by its variance, sigma^2 (1 + gamma^2), and the least error that it leaves."""
    sde, gaussian, gamma = SDES[name], Gaussian(), 0.5

    def variance(t):
        return (sde.alpha(t) * gaussian.std) ** 2 + (1 + gamma**2) * sde.sigma(t) ** 2

    def best(x, t):  # -E[z | x] / sigma
        return -(x - sde.alpha(t)[:, None] * gaussian.mean) / variance(t)[:, None]

    @jax.jit
    def run(key):
        plain = sde_lib.perturb(key, sde, X)
        noisy = sde_lib.perturb(key, sde, X, input_perturbation=gamma)
        arguments = key, sde, best, X
        _, metrics = sde_lib.denoising_score_matching(*arguments, input_perturbation=gamma)
        least = 1 - sde.sigma(plain.t) ** 2 / variance(plain.t)
        return plain, noisy, metrics["error"] - least

    plain, noisy, difference = jax.tree.map(np.asarray, run(jax.random.key(0)))
    for ours, theirs in zip(noisy[1:], plain[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    xi = (noisy.x - plain.x) / (gamma * plain.std[:, None])
    usable = plain.std > 0.01 * np.abs(plain.x).max(axis=1)  # float32 tells them apart
    xi, z = xi[usable].ravel(), plain.z[usable].ravel()
    np.testing.assert_allclose([xi.mean(), xi.std(), np.mean(xi * z)], [0, 1, 0], atol=0.03)
    assert abs(float(difference.mean())) < 4 * standard_error(difference)


def test_without_input_perturbation_not_a_bit_changes():
    plain, _ = losses(SDES["vp"])
    same, _ = losses(SDES["vp"], input_perturbation=0.0)
    np.testing.assert_array_equal(plain, same)
    with pytest.raises(ValueError, match=r"input_perturbation is -0\.1: it must be at least 0"):
        losses(SDES["vp"], n=4, input_perturbation=-0.1)


@pytest.mark.parametrize("k", [0.0, 0.9, 1.0, 2.0, 3.0])
def test_smallest_times_of_soft_truncation_have_their_density(k):
    """Kolmogorov-Smirnov test of the distribution function (p = 1e-3)."""
    sde, n = SDES["vp"], 10_000
    keys = jax.random.split(jax.random.key(0), n)
    draw = jax.jit(jax.vmap(lambda key: smallest_time(key, sde, k)))
    tau = np.asarray(draw(keys), np.float64)

    def integral(t):
        return np.log(t) if k == 1 else t ** (1 - k) / (1 - k)

    first, last = integral(sde.train_t_min), integral(sde.t_max)
    u = np.sort((integral(tau) - first) / (last - first))
    assert np.abs(u - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)


@pytest.mark.thorough
def test_a_batch_has_one_smallest_time_in_all_of_its_parts():
    sde, x0 = SDES["vp"], np.zeros((64, 3), np.float32)

    @jax.jit
    def perturb(key, x0, first_index):
        return sde_lib.perturb(key, sde, x0, first_index=first_index, soft_truncation=1.0)

    key, another = jax.random.key(0), jax.random.key(1)
    whole, later, other = perturb(key, x0, 0), perturb(key, x0, 48), perturb(another, x0, 0)
    np.testing.assert_array_equal(whole.t[48:], later.t[:16])
    np.testing.assert_array_equal(whole.weight, np.full(64, whole.weight[0]))
    assert later.weight[0] == whole.weight[0] != other.weight[0]
    tau = sde.t_max - whole.weight[0] * (sde.t_max - sde.train_t_min)
    assert tau <= whole.t.min() < tau + 0.2


@pytest.mark.thorough
@pytest.mark.parametrize(("k", "importance_sampling"), [(2.0, False), (1.0, True)])
def test_soft_truncation_weights_the_loss_by_the_probability_to_be_kept(k, importance_sampling):
    """Kim et al. 2022, Theorem 1: of the likelihood weighting, g^2 becomes g^2 P(tau <= t)."""
    sde, gaussian = sde_lib.VP(train_t_min=0.01), Gaussian()
    options = {"likelihood_weighting": True, "importance_sampling": importance_sampling}

    @jax.jit
    @jax.vmap
    def batch_mean(key):
        x0 = gaussian.sample(jax.random.fold_in(key, 0), (8, 3))
        arguments = jax.random.fold_in(key, 1), sde, gaussian.score_fn(sde), x0
        return sde_lib.denoising_score_matching(*arguments, **options, soft_truncation=k)[0].mean()

    means = batch_mean(jax.random.split(jax.random.key(0), 10_000))
    t = np.linspace(0.01, 1, 100_001)
    kept = np.log(t / 0.01) / np.log(100) if k == 1 else (100 - 1 / t) / 99
    weight = np.asarray(sde.diffusion(t) / sde.sigma(t), np.float64) ** 2
    integrand = 1.5 * kept * weight * np.asarray(exact_error(sde, t), np.float64)
    exact = np.trapezoid(integrand, t) / 0.99
    assert abs(float(means.mean()) - exact) < 4 * standard_error(means)
    assert standard_error(means) < 0.02 * exact


@pytest.mark.thorough
def test_soft_truncation_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="soft_truncation draws a continuous t"):
        losses(SDES["vp"], n=4, n_levels=10, soft_truncation=1.0)
    with pytest.raises(ValueError, match=r"soft_truncation is -1\.0: it must be at least 0"):
        losses(SDES["vp"], n=4, soft_truncation=-1.0)
    with pytest.raises(ValueError, match="has no integral"):
        losses(sde_lib.VP(train_t_min=0.0), n=4, soft_truncation=1.0)
