"""Gaussian fields, and samplers and likelihoods with their exact score in 1, 2 and 3 dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import samplers
import sde_lib
from sde_lib import GaussianField

FIELDS = [GaussianField((16,), 2.0), GaussianField((6, 8), 1.5), GaussianField((4, 6, 4), 1.0)]
SDES = {"edm": sde_lib.EDM(), "vp": sde_lib.VP()}
N = 2000


def covariance(field):
    """The covariance of x_0, by the definition of the spectrum, in float64."""
    n = np.prod(field.sides)
    of_first = np.fft.ifftn(field.power).real
    places = np.stack(np.unravel_index(np.arange(n), field.sides), axis=-1)
    between = (places[:, None] - places[None]) % np.array(field.sides)
    return of_first[tuple(np.moveaxis(between, -1, 0))]


@pytest.mark.thorough
@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{len(field.sides)}-D")
def test_density_and_score_are_those_of_the_covariance(field):
    exact = covariance(field)
    np.testing.assert_allclose(np.diag(exact), 1)
    x = np.asarray(field.sample(jax.random.key(0), 5))
    flat = x.reshape(5, -1).astype(np.float64)
    log_prob = stats.multivariate_normal(cov=exact).logpdf(flat)
    np.testing.assert_allclose(field.log_prob(x), log_prob, rtol=1e-4)
    sde = sde_lib.VP()
    alpha, sigma = float(sde.alpha(0.2)), float(sde.sigma(0.2))
    marginal = alpha**2 * exact + sigma**2 * np.eye(len(exact))
    score = field.score_fn(sde)(x, jnp.full(5, 0.2)).reshape(5, -1)
    np.testing.assert_allclose(score, -np.linalg.solve(marginal, flat.T).T, atol=1e-4)


def agree(bands):
    """The bands are those of the field to Monte-Carlo error (5 standard errors and 2%)."""
    assert len(bands) == 4
    for band in bands:
        assert band.ratio == pytest.approx(1, abs=5 * band.error + 0.02), band
        assert band.error < 0.04


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("field", "name", "options"),
    [
        *((field, "dpm_solver", {"n_steps": 30}) for field in FIELDS),
        (FIELDS[0], "edm", {"n_steps": 64}),
        (FIELDS[0], "euler_maruyama", {"n_steps": 400}),
    ],
    ids=str,
)
def test_samplers_have_the_field_s_spectrum(field, name, options):
    sde = SDES["edm" if name == "edm" else "vp"]
    sampler = samplers.create(name, **options)
    draw = jax.jit(lambda key: sampler(key, sde, field.score_fn(sde), (N, *field.sides, 1)).x)
    agree(field.bands(draw(jax.random.key(1))))


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{len(field.sides)}-D")
def test_exact_samples_have_the_field_s_spectrum(field):
    agree(field.bands(field.sample(jax.random.key(1), N)))
    other = GaussianField(field.sides, 2 * field.length)
    low, *_, high = field.bands(other.sample(jax.random.key(1), N))
    assert high.ratio < 0.7 * low.ratio


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("field", "name"), [*((field, "vp") for field in FIELDS), (FIELDS[0], "edm")], ids=str
)
def test_likelihood_is_the_field_s_density(field, name):
    """In nats, to 1e-3 of the number of values."""
    sde, x = SDES[name], field.sample(jax.random.key(2), 4)
    score_fn = field.score_fn(sde)
    likelihood = jax.jit(
        lambda key, x: sde_lib.log_likelihood(key, sde, score_fn, x, probe="exact").log_prob
    )
    expected = field.log_prob(x)
    size = np.prod(field.sides)
    np.testing.assert_allclose(likelihood(jax.random.key(3), x), expected, atol=1e-3 * size)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sides": ()}, r"sides are \(\): a field has 1, 2 or 3 of them"),
        ({"sides": (4, 0)}, r"sides\[1\] is 0"),
        ({"length": 0.0}, "length is 0.0"),
        ({"exponent": -1.0}, "exponent is -1.0"),
    ],
    ids=str,
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        GaussianField(**{"sides": (4,)} | fields)
