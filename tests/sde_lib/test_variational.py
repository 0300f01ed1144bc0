from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from scipy import stats

import sde_lib
from sde_lib import AnalyticVariance, analytic_variance, variational
from sde_lib.batch import expand
from sde_lib.variational import discretized_gaussian

DATA = Gaussian(0.3, 0.7)
TABLE = sde_lib.from_betas(np.linspace(1e-4, 0.02, 1000))
SDES = {"vp": sde_lib.VP(), "ve": sde_lib.VE(), "edm": sde_lib.EDM(), "table": TABLE}
FIXED = ("beta", "posterior")
RANGE, GREY = (-1.0, 1.0), 17


def unknown(log_snrs):
    """E (eps - z)^2 of the exact score: Var(x_0 | x_t) / l^2."""
    return DATA.std**2 / (DATA.std**2 + np.exp(-np.asarray(log_snrs)))


def gaussian_kl(log_ratio, step):
    """KL a dimension of the exact step from that of `log_ratio`, both with the exact mean."""
    return 0.5 * (log_ratio - step + np.exp(step - log_ratio) - 1)


def exact(log_snrs, variance):
    """Each term's mean a dimension, in nats, and the part of it that the error of the noise makes.

    From the posteriors' own variances, in float64.
    """
    now, then, u = log_snrs[1:], log_snrs[:-1], unknown(log_snrs)
    own, high, low = np.exp(-log_snrs), np.exp(-then), np.exp(-now)
    posterior = high * (low - high) / low
    spread = (1 - high / low) ** 2 * low * u[1:]
    model = {
        "beta": (1 + high) / (1 + low) * (low - high),
        "posterior": posterior,
        "optimal": posterior + spread,
    }[variance]
    diffusion = 0.5 * (np.log(model / posterior) + (posterior + spread) / model - 1)
    first = own[0] * u[0] if variance == "optimal" else own[0] / (1 + own[0])
    reconstruction = 0.5 * (np.log(2 * np.pi * first) + own[0] * u[0] / first)
    of_error = 0.5 * np.append(own[0] * u[0] / first, spread / model)
    return np.append(reconstruction, diffusion), of_error


def analytic(log_snrs):
    return AnalyticVariance(tuple(log_snrs), tuple(unknown(log_snrs)))


def learned_optimum(sde, log_snrs):
    """The exact score, with the v of the least bound: log(1 + (e^d - 1) u) of the whole range."""
    falls, u = -np.diff(log_snrs), unknown(log_snrs)
    steps = variational._Steps.of(log_snrs)
    best = np.log1p(np.expm1(falls) * u[1:])
    first = np.log(u[0]) - log_snrs[0] - steps.first_log_variance
    v = jnp.asarray(np.append(first, best) / steps.ranges, jnp.float32)

    def both(x, t):
        level = jnp.round(t * (len(v) - 1) / sde.t_max).astype(int)
        return DATA.score_fn(sde)(x, t), jnp.broadcast_to(expand(v[level], x), x.shape)

    return sde_lib.ScoreAndVariance(both)


CHAINS = {
    "vp": (SDES["vp"], 12),
    "cosine": (sde_lib.chain(12, "cosine"), 12),
    "sigmoid": (sde_lib.Table(tuple(sde_lib.Sigmoid().levels(12))), 12),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", CHAINS)
def test_each_term_is_the_closed_form(name):
    (sde, n_levels), n, d = CHAINS[name], 6000, 3
    log_snrs = variational.chain(sde, n_levels)
    x = DATA.sample(jax.random.key(1), (n, d))
    exact_score = DATA.score_fn(sde)
    models = {
        "beta": (exact_score, "beta"),
        "posterior": (exact_score, "posterior"),
        "analytic": (exact_score, analytic(log_snrs)),
    }
    if name != "vp":
        models["learned"] = learned_optimum(sde, log_snrs), "learned"

    @jax.jit
    def bounds(x):
        return {
            variance: sde_lib.variational_bound(jax.random.key(0), sde, score_fn, x, log_snrs, how)
            for variance, (score_fn, how) in models.items()
        }

    alpha2 = 1 / (1 + np.exp(-log_snrs[-1]))
    prior = 0.5 * (alpha2 * np.sum(x**2, 1) - d * (alpha2 + np.log1p(-alpha2)))
    for variance, bound in bounds(x).items():
        terms = np.column_stack([bound.reconstruction, bound.diffusion]) / d
        error = terms.std(0) / np.sqrt(n)
        expected, _ = exact(log_snrs, variance if variance in FIXED else "optimal")
        assert (np.abs(terms.mean(0) - expected) < 4.5 * error).all()
        assert (error < 0.05 * np.abs(expected) + 1e-3).all()
        np.testing.assert_allclose(bound.prior, prior, rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("variance", FIXED)
@pytest.mark.parametrize("name", CHAINS)
def test_the_elbo_weighting_makes_score_matching_the_bound(name, variance):
    (sde, n_levels), n = CHAINS[name], 40_000
    log_snrs = variational.chain(sde, n_levels)
    weighting = variational.elbo_weighting(log_snrs, variance)
    _, of_error = exact(log_snrs, variance)
    weights = np.asarray(weighting(jnp.asarray(log_snrs, float)))
    np.testing.assert_allclose(0.5 * weights * unknown(log_snrs) / n_levels, of_error, rtol=1e-5)
    if name != "cosine":
        return
    options = {"n_levels": n_levels, "weighting": weighting, "stratified": True}
    x, about = DATA.sample(jax.random.key(1), (n, 1)), (sde, DATA.score_fn(sde))
    losses, _ = jax.jit(
        lambda: sde_lib.denoising_score_matching(jax.random.key(0), *about, x, **options)
    )()
    error = np.std(losses) / np.sqrt(n)
    assert abs(np.mean(losses) - of_error.sum()) < 4 * error < 0.1 * of_error.sum()


@pytest.mark.parametrize("name", SDES)
def test_the_bound_is_tight_above_the_likelihood_and_falls_with_the_steps(name):
    """Computed from the exact variance of the residual, so without sampling noise."""
    entropy = 0.5 * np.log(2 * np.pi * np.e * DATA.std**2)
    totals = {}
    for n in (30, 100, 1000):
        log_snrs, sde = variational.chain(SDES[name], n), SDES[name]
        steps, level = variational._Steps.of(log_snrs), jnp.arange(n)
        ratios = [steps.log_ratio(variance)[:, None] for variance in ("beta", analytic(log_snrs))]

        @jax.jit
        def total(ratio, steps=steps, level=level, sde=sde, log_snrs=log_snrs):
            residual = jnp.sqrt(jnp.asarray(unknown(log_snrs), jnp.float32))[:, None]
            rms, zeros = jnp.full((1, 1), np.hypot(DATA.mean, DATA.std)), jnp.zeros_like(ratio)
            prior = variational.prior_kl(sde, rms, sde.inverse_log_snr(jnp.float32(log_snrs[-1])))
            return steps.terms(level, zeros, residual, ratio, RANGE, None), prior[0]

        for what, ratio in zip(("beta", "analytic"), ratios, strict=True):
            terms, prior = total(np.float32(ratio))
            totals[what, n] = np.float64(terms).sum() + float(prior) - entropy
    bits = {key: total / np.log(2) for key, total in totals.items()}
    assert -2e-5 < bits["analytic", 1000] <= bits["beta", 1000] < 0.02
    assert bits["beta", 1000] < bits["beta", 100] < bits["beta", 30]
    assert all(bits["analytic", n] <= bits["beta", n] for n in (30, 100, 1000))


@pytest.mark.thorough
def test_grey_levels_of_a_gaussian():
    """The bound is above the exact negative log-likelihood of bins, and near it."""
    edges = np.linspace(-1, 1, GREY)
    inner = np.append(-np.inf, 0.5 * (edges[1:] + edges[:-1]))
    masses = np.diff(stats.norm.cdf(np.append(inner, np.inf), DATA.mean, DATA.std))
    sde, n = SDES["vp"], 400

    def score_fn(x, t):
        """Exact score of the grey levels."""
        alpha, sigma = (expand(a, x[..., None]) for a in (sde.alpha(t), sde.sigma(t)))
        log_p = np.log(masses) - 0.5 * ((x[..., None] - alpha * edges) / sigma) ** 2
        mean = jnp.sum(jax.nn.softmax(log_p) * edges, -1)
        return (alpha[..., 0] * mean - x) / sigma[..., 0] ** 2

    grey = np.random.default_rng(0).choice(GREY, (n, 8), p=masses)
    x, log_snrs = jnp.asarray(edges[grey], jnp.float32), variational.chain(sde, 1000)
    about = sde, score_fn, x, log_snrs
    estimate = jax.jit(lambda key, x: analytic_variance.mean_squares(key, *about[:2], x, log_snrs))
    squares = estimate(jax.random.key(5), x[:100])  # 800 values a level determine the variance
    means = [np.mean(each, axis=0) for each in squares]
    variance = analytic_variance.from_squares(log_snrs, means[0], means[1], RANGE)
    bound = jax.jit(lambda key: sde_lib.variational_bound(key, *about, variance, RANGE, GREY))(
        jax.random.key(0)
    )
    excess = np.asarray(bound.total) / 8 + np.log(masses[grey]).mean(1)
    bits = excess / np.log(2)
    error = bits.std() / np.sqrt(n)
    print("GREY", bits.mean(), error)
    assert -2 * error < bits.mean() < 0.02 + 2 * error < 0.04
    assert float(jnp.abs(bound.reconstruction).max()) < 1e-3  # the first level is far finer


MEANS = jnp.array([-1.7, -0.3, 0.0, 0.99, 2.5])


@jax.jit
def bins(mean, log_variance):
    """log P of 256 grey levels, [256, means], and the slope of their sum in the means."""
    grey = jnp.linspace(-1, 1, 256)[:, None]

    def log_p(mean):
        return discretized_gaussian(grey, mean, 0 * grey + log_variance, RANGE, 256)

    return log_p(mean), jax.grad(lambda mean: jnp.sum(log_p(mean)))(mean)


@pytest.mark.parametrize("std", [1e-4, 0.03, 0.7, 1.0, 30.0])
def test_the_bins_of_a_discretised_gaussian_sum_to_one(std):
    log_p, slope = bins(MEANS, np.float32(2 * np.log(std)))
    np.testing.assert_allclose(np.sum(np.exp(log_p), 0), 1, rtol=1e-4)
    edges = np.linspace(-1, 1, 256)[:-1] + 1 / 255
    if std == 0.7:
        exact = np.log(np.diff(stats.norm.cdf(edges[99:101], -0.3, 0.7)))
        np.testing.assert_allclose(log_p[100, 1], exact[0], rtol=1e-5)
    assert np.isfinite(slope).all()


def learned(v):
    """The exact score with this v, [features] or a number."""
    return sde_lib.ScoreAndVariance(
        lambda x, t: (DATA.score_fn(TABLE)(x, t), jnp.broadcast_to(v, x.shape))
    )


@pytest.mark.thorough
def test_v_of_0_and_1_are_beta_tilde_and_beta():
    x, log_snrs = DATA.sample(jax.random.key(1), (4, 3)), np.asarray(TABLE.log_snrs)[::50]

    def bounds(x):
        return [
            sde_lib.variational_bound(jax.random.key(0), TABLE, score_fn, x, log_snrs, variance)
            for score_fn, variance in (
                (learned(0.0), "learned"),
                (learned(1.0), "learned"),
                (learned(9.0), "posterior"),
                (learned(9.0), "beta"),
            )
        ]

    bound = jax.jit(bounds)(x)
    for ours, other in (bound[0], bound[2]), (bound[1], bound[3]):
        np.testing.assert_allclose(ours.diffusion, other.diffusion, rtol=1e-6)
    np.testing.assert_allclose(bound[1].reconstruction, bound[3].reconstruction, rtol=1e-6)


SMALL = sde_lib.from_betas(np.linspace(0.01, 0.4, 10))


def model(params):
    """A score and a v that are both wrong."""
    a, b = params["score"], params["variance"]
    return sde_lib.ScoreAndVariance(
        lambda x, t: (-a * x, jnp.broadcast_to(b * (1 + t[:, None]), x.shape))
    )


def loss(params, x, **options):
    values, metrics = sde_lib.variational_loss(
        jax.random.key(3), SMALL, model(params), x, stratified=True, **options
    )
    return jnp.mean(values), metrics


PARAMS = {"score": jnp.float32(0.8), "variance": jnp.float32(0.3)}
X = DATA.sample(jax.random.key(1), (40, 2))


@pytest.mark.thorough
@pytest.mark.parametrize("levels", [None, GREY])
def test_gradient_of_the_bound_by_finite_differences(levels):
    x = jnp.round((jnp.clip(X, -1, 1) + 1) * 8) / 8 - 1 if levels else X

    def bits(params):
        return loss(params, x, vlb_weight=None, levels=levels)[0]

    fn = jax.jit(jax.value_and_grad(bits))
    for name, grad in fn(PARAMS)[1].items():
        ends = [fn(PARAMS | {name: PARAMS[name] + h})[0] for h in (0.01, -0.01)]
        np.testing.assert_allclose(grad, (ends[0] - ends[1]) / 0.02, rtol=0.01)


@pytest.mark.thorough
def test_hybrid_teaches_the_mean_by_the_simple_loss_alone():
    def losses(params):
        total, metrics = loss(params, X, vlb_weight=0.1)
        vlb, _ = loss(params, X, vlb_weight=None)
        return jnp.mean(metrics["error"]), jnp.mean(metrics["bits"]), total, vlb

    grads = jax.jit(jax.jacrev(losses))(PARAMS)
    simple, bits, hybrid, vlb = grads
    np.testing.assert_allclose(hybrid["score"], simple["score"], rtol=1e-6)
    np.testing.assert_allclose(hybrid["variance"], 0.1 * vlb["variance"], rtol=1e-5)
    assert bits["score"] == 0
    assert abs(vlb["score"]) > 1e-3


@pytest.mark.thorough
def test_the_loss_is_the_bound_whatever_the_levels_probabilities():
    """The mean loss is the sum of all terms except the prior's, in bits/dim."""
    x = DATA.sample(jax.random.key(2), (20_000, 2))
    key, log_snrs = jax.random.key(0), np.asarray(SMALL.log_snrs)
    arguments = key, SMALL, model(PARAMS), x[:4000], log_snrs, "learned"
    bound = jax.jit(lambda: sde_lib.variational_bound(*arguments))()
    expected = float(np.mean(bound.total - bound.prior)) / (2 * np.log(2))
    uneven = jnp.asarray(np.linspace(1, 3, 10) / 20, jnp.float32)
    for probabilities in (None, uneven):
        about = partial(sde_lib.variational_loss, key, SMALL, model(PARAMS), vlb_weight=None)
        values, metrics = jax.jit(about)(x, probabilities=probabilities)
        error = float(values.std()) / np.sqrt(len(x))
        assert abs(float(values.mean()) - expected) < 4 * error < 0.15 * expected
        counts = np.bincount(np.asarray(metrics["level"]), minlength=10) / len(x)
        shares = np.full(10, 0.1) if probabilities is None else np.asarray(probabilities)
        np.testing.assert_allclose(counts, shares, atol=0.012)


@pytest.mark.thorough
def test_sample_i_does_not_depend_on_its_batch():
    x, log_snrs = DATA.sample(jax.random.key(1), (8, 3)), variational.chain(SDES["vp"], 5)
    about = jax.random.key(0), SDES["vp"], DATA.score_fn(SDES["vp"])
    bound = jax.jit(
        lambda x, first: sde_lib.variational_bound(*about, x, log_snrs, first_index=first)
    )
    whole, part = bound(x, 0), bound(x[5:], 5)
    np.testing.assert_allclose(whole.diffusion[5:], part.diffusion, rtol=1e-5)


def test_chains():
    np.testing.assert_array_equal(variational.chain(TABLE, 1000), TABLE.log_snrs)
    np.testing.assert_array_equal(
        variational.chain(TABLE, 3), np.asarray(TABLE.log_snrs)[[0, 500, 999]]
    )
    smld = variational.chain(SDES["ve"], 11, n_levels=11)
    np.testing.assert_allclose(np.exp(-0.5 * smld[[0, -1]]), [0.01, 50])
    even = variational.chain(SDES["vp"], 11)
    np.testing.assert_allclose(SDES["vp"].inverse_log_snr(even[[0, -1]]), [1e-5, 1], rtol=1e-3)


def test_what_does_not_go_together_is_said():
    about = jax.random.key(0), TABLE, DATA.score_fn(TABLE), X
    with pytest.raises(ValueError, match="learned_variance"):
        sde_lib.variational_bound(*about, variational.chain(TABLE, 10), "learned")
    with pytest.raises(ValueError, match="'posterier' is unknown"):
        sde_lib.variational_bound(*about, variational.chain(TABLE, 10), "posterier")  # pyright: ignore
    with pytest.raises(ValueError, match="each below the one before"):
        sde_lib.variational_bound(*about, np.arange(5.0))
    with pytest.raises(ValueError, match="1001 steps, but the model was trained at 1000"):
        variational.chain(TABLE, 1001)
    with pytest.raises(ValueError, match="variance 'learned' is unknown"):
        variational.elbo_weighting(TABLE.log_snrs, "learned")
    with pytest.raises(ValueError, match="each below the one before"):
        variational.elbo_weighting([1.0, 1.0])
    with pytest.raises(ValueError, match="not VP"):
        sde_lib.variational_loss(jax.random.key(0), SDES["vp"], model(PARAMS), X)
    with pytest.raises(ValueError, match="learned_variance"):
        sde_lib.variational_loss(jax.random.key(0), TABLE, DATA.score_fn(TABLE), X)
