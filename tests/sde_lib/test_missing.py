import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Correlated

import sde_lib
from sde_lib import missing

KEY = jax.random.key(0)
FACTOR = ((1.0, 0.0, 0.0, 0.0), (0.7, 0.5, 0.0, 0.0), (-0.4, 0.6, 0.3, 0.0), (0.2, -0.1, 0.8, 0.6))
LAW = Correlated((0.5, -1.0, 0.2, 0.0), FACTOR)
MASKS = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1], [0, 1, 1, 1]], np.float32)
X = np.asarray(LAW.sample(jax.random.key(1), 4))


def marginal_score(sde, mask):
    """The exact score of the observed coordinates; whatever else x holds must not matter."""
    covariance = mask[:, :, None] * jnp.asarray(LAW.covariance, jnp.float32) * mask[:, None, :]

    def score(x, t):
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        of_x = alpha[..., None] ** 2 * covariance + sigma[..., None] ** 2 * jnp.eye(4)
        away = mask * (x - alpha * jnp.asarray(LAW.mean))
        return -jnp.linalg.solve(of_x, away[..., None])[..., 0] + (1 - mask)

    return score


def exact_log_prob(sde, x, mask):
    """The density of the flow from train_t_min to the prior, which is p_0 but for its two ends."""
    on = mask > 0
    mean, covariance = np.asarray(LAW.mean)[on], LAW.covariance[np.ix_(on, on)]
    variances, axes = np.linalg.eigh(covariance)
    alphas, sigmas = (
        np.array([float(fn(t)) for t in (sde.train_t_min, sde.t_max)])
        for fn in (sde.alpha, sde.sigma)
    )
    start, end = np.sqrt(np.outer(alphas**2, variances) + sigmas[:, None] ** 2)
    latent = alphas[1] * mean @ axes + end / start * ((x[on] - alphas[0] * mean) @ axes)
    square = np.sum((latent / sde.prior_std) ** 2)
    prior = -0.5 * square - on.sum() * (np.log(sde.prior_std) + 0.5 * np.log(2 * np.pi))
    return prior + np.sum(np.log(end / start))


def exact(sde):
    return np.array([exact_log_prob(sde, x, mask) for x, mask in zip(X, MASKS, strict=True)])


@functools.cache
def likelihood(name, probe):
    sde = SDES[name]

    @jax.jit
    def run(x, mask):
        score_fn, about = marginal_score(sde, mask), {"probe": probe, "mask": mask}
        return sde_lib.log_likelihood(KEY, sde, score_fn, x, 1e-6, 1e-6, **about)

    return run


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ve", "vp"])
def test_the_likelihood_of_the_observed_part_is_the_closed_form(name):
    """Four masks in one batch, with anything at all in the missing places."""
    result = likelihood(name, "exact")(X, MASKS)
    np.testing.assert_allclose(result.log_prob, exact(SDES[name]), atol=2e-4)
    other = likelihood(name, "exact")(np.where(MASKS > 0, X, 1e3), MASKS)
    np.testing.assert_array_equal(other.log_prob, result.log_prob)
    assert not np.asarray(result.latent)[MASKS == 0].any()


@pytest.mark.thorough
def test_hutchinson_s_estimate_of_the_observed_part_is_unbiased():
    n = 500
    x, mask = (np.repeat(values, n, axis=0) for values in (X, MASKS))
    sde = SDES["vp"]
    program = jax.jit(
        lambda x, mask: sde_lib.log_likelihood(
            KEY, sde, marginal_score(sde, mask), x, 1e-3, 1e-3, mask=mask
        )
    )
    found = np.asarray(program(x, mask).log_prob).reshape(4, n)
    error = found.std(axis=1) / np.sqrt(n)
    assert (np.abs(found.mean(axis=1) - exact(sde)) < 4 * error + 5e-3).all()
    assert found[2].std() < 1e-3  # one coordinate: its divergence needs no luck


@pytest.mark.thorough
@pytest.mark.parametrize("reduce_mean", [False, True])
def test_the_loss_is_of_the_observed_coordinates(reduce_mean):
    """A mask of ones changes nothing; missing values and what is predicted there do not count."""
    sde, score_fn = SDES["vp"], LAW.score_fn(SDES["vp"])
    plain, _ = sde_lib.denoising_score_matching(KEY, sde, score_fn, X, reduce_mean)
    ones, _ = sde_lib.denoising_score_matching(
        KEY, sde, score_fn, X, reduce_mean, mask=jnp.ones_like(X)
    )
    np.testing.assert_array_equal(plain, ones)

    def some(x, score_fn):
        about = KEY, sde, score_fn, x, reduce_mean
        return sde_lib.denoising_score_matching(*about, mask=jnp.asarray(MASKS))

    true = marginal_score(sde, MASKS)
    loss, metrics = some(X, true)
    other, _ = some(np.where(MASKS > 0, X, 1e3), lambda x, t: true(x, t) + 7 * (1 - MASKS))
    np.testing.assert_allclose(loss, other, rtol=1e-6)

    x, t, z, std, _ = sde_lib.perturb(KEY, sde, MASKS * X)
    square = (MASKS * (std[:, None] * true(MASKS * x, t) + z)) ** 2
    mean = square.sum(1) / MASKS.sum(1)
    np.testing.assert_allclose(loss, mean if reduce_mean else square.sum(1) / 2, rtol=1e-5)
    np.testing.assert_allclose(metrics["error"], mean, rtol=1e-5)


def test_bits_per_dim_are_per_observed_value():
    nats = -np.log(2) * np.array([4.0, 6.0, 5.0, 3.0], np.float32)
    bits = sde_lib.bits_per_dim(nats, (4,), levels=None, dims=MASKS.sum(1))
    np.testing.assert_allclose(bits, [1, 3, 5, 1], rtol=1e-6)


def test_nan_is_missing():
    x, mask = missing.split_missing(jnp.where(MASKS > 0, X, jnp.nan))
    np.testing.assert_array_equal(mask, MASKS)
    np.testing.assert_array_equal(x, MASKS * X)
    np.testing.assert_array_equal(missing.count_observed(mask), MASKS.sum(1))
    assert missing.count_observed(jnp.zeros((1, 4)))[0] == 1


@pytest.mark.thorough
def test_hiding_takes_subsets_of_every_size_of_what_is_observed():
    mask = jnp.tile(jnp.asarray(MASKS), (500, 1))
    kept = np.asarray(missing.hide(KEY, mask, 0.5))
    assert (kept <= mask).all()
    assert kept.any(axis=1).all()
    whole = kept[::4].sum(1)
    assert 0.5 < np.mean(whole == 4) < 0.7  # half are not chosen, a tenth lose nothing by chance
    assert {1, 2, 3} <= set(whole.tolist())
    np.testing.assert_array_equal(missing.hide(KEY, mask, 0.0), mask)
    np.testing.assert_array_equal(missing.hide(KEY, mask[8:12], 0.5, 8), kept[8:12])


@pytest.mark.parametrize(
    ("sde", "mask", "message"),
    [
        (sde_lib.VP(), MASKS[:, :2], r"mask has the shape \(4, 2\): it must be that of the data"),
        (sde_lib.CLD(), MASKS, "the SDE CLD has states that are more than the data"),
    ],
    ids=["shape", "velocities"],
)
def test_masks_that_do_not_fit_are_refused(sde, mask, message):
    about = KEY, sde, lambda x, t: x, jnp.asarray(X)
    for function in (sde_lib.log_likelihood, sde_lib.denoising_score_matching):
        with pytest.raises(ValueError, match=message):
            function(*about, mask=jnp.asarray(mask))
