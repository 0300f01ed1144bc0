import math

import jax
import numpy as np
import pytest
from closed_forms import Gaussian
from exact_models import grey_images, not_a_number, pipeline
from scipy import stats

from configs import digits, points
from experiments.build import pipelines
from experiments.data.scaling import Scaling
from experiments.evaluation import bound, metrics
from experiments.pipeline.likelihood import BitsPerDim, split_error
from experiments.pipeline.model import LikelihoodOptions

SIDE, N = 3, 500
GAUSSIAN = Gaussian(mean=0.1, std=0.3)


@pytest.fixture(scope="module")
def x():
    """Data that is N(0.1, 0.3^2) in [-1, 1]."""
    return np.asarray(GAUSSIAN.sample(jax.random.key(5), (N, SIDE, SIDE, 1)))


def exact_bits(images, edges):
    """The exact entropy of the grey levels, in bits/dim of each image."""
    probabilities = np.diff(stats.norm.cdf(edges, 0.1, 0.3))
    return -np.log2(probabilities[images]).mean(axis=(1, 2, 3))


def images_model(variant="vp_score_sde", **options):
    """A pipeline of images whose score is exact, and whose data have 256 grey levels."""
    config = digits.get_config(variant)
    config.data.image_size = SIDE
    made = pipelines.untrained(config)
    scaling = Scaling(256, True, made.scaling.dequantize)
    likelihood = LikelihoodOptions(1e-5, 1e-5, **options)
    score = GAUSSIAN.score_fn(made.sde)
    return pipeline(config, score, scaling=scaling, likelihood=likelihood)


@pytest.mark.thorough
def test_bits_per_dim_of_gaussian_images_is_the_closed_form(x):
    """Against the exact entropy of the grey levels, paired on the same images: 2e-3 bits/dim.

    The batches are not of one size: 170, 170 and 160 images.
    """
    images = grey_images(x)
    bits = images_model(batch_size=170).bits_per_dim(images)
    exact = exact_bits(images, np.linspace(-1, 1, 257))
    assert bits.mean == pytest.approx(exact.mean(), abs=2e-3)
    assert bits.error == pytest.approx(exact.std(ddof=1) / np.sqrt(N), rel=0.02)
    assert bits.each.mean() == pytest.approx(bits.mean)


@pytest.mark.thorough
def test_accuracy_takes_the_place_of_the_models_tolerances(x):
    """By evaluations of the exact score: 25 for 0.01 bits/dim, compiled once for an accuracy."""
    images, model = grey_images(x)[:50], images_model(batch_size=50)
    tolerances, rough = model.bits_per_dim(images), model.bits_per_dim(images, accuracy=0.01)
    assert rough.nfe == 25 != tolerances.nfe
    np.testing.assert_allclose(rough.each, tolerances.each, atol=0.01)
    n_programs = len(model.programs)
    model.replace(seed=1).bits_per_dim(images, accuracy=0.01)
    assert len(model.programs) == n_programs == 2
    scores = model.log_likelihood(x[:8], accuracy=0.01)
    assert int(scores.nfe) == 25


def test_the_error_is_split_by_its_causes():
    """Data of standard deviation 1, noise in each pass of 0.3, of which 0.2 by the probes."""
    rng, shape = np.random.default_rng(0), (4, 2000)
    bits = rng.normal(size=shape[1]) + 0.3 * rng.normal(size=shape)
    probes, unknown, n = np.full(shape, 0.2), np.full(shape, np.nan), np.sqrt(shape[1])
    drawn, rest = 0.3 / 2, np.sqrt(0.3**2 - 0.2**2) / 2
    for found, parts in (
        (split_error(bits, probes, True), [1, rest, 0.1]),
        (split_error(bits, unknown, True), [1, drawn]),
        (split_error(bits, unknown, False), [1, drawn]),
        (split_error(bits[:1], probes[:1], True), [1, 0.2]),
    ):
        np.testing.assert_allclose(list(found.values()), np.array(parts) / n, rtol=0.07)
        total = bits[:1] if found.keys() == {"data and dequantization", "probes"} else bits
        error = total.mean(axis=0).std(ddof=1) / n
        assert math.hypot(*found.values()) == pytest.approx(error)
    assert split_error(bits[:1], unknown[:1], True) == {}


@pytest.mark.thorough
def test_several_probes_and_passes_tell_the_parts_of_the_error(x):
    """A score of Gaussian images has no error by probes: its Jacobian is diagonal."""
    images = grey_images(x)[:40]
    bits = images_model(batch_size=40, n_probes=2, n_repeats=2).bits_per_dim(images, accuracy=0.1)
    assert [*bits.by] == ["data", "dequantization", "probes"]
    assert bits.by["probes"] < 1e-5 < bits.by["dequantization"] < bits.by["data"] < bits.error


@pytest.mark.thorough
def test_vdm_s_bound_and_its_flow_are_those_of_gaussian_grey_levels(x):
    """Above the exact entropy of the grey levels, by 1e-3 bits/dim for noise of 1.4 steps."""
    model = images_model("vdm_fixed", batch_size=N).replace(bound_steps=50)
    assert model.grey_levels
    images = np.clip(np.round((x + 1) / 2 * 255), 0, 255).astype(np.uint8)
    exact = exact_bits(images, (np.arange(257) - 0.5) * 2 / 255 - 1)
    bits, terms = model.bits_per_dim(images), bound.continuous(model, (images, {}))
    above = sum(terms.values()) - exact
    assert bits.mean == pytest.approx(exact.mean() + 1e-3, abs=2e-3)
    assert above.mean() == pytest.approx(1e-3, abs=4 * above.std() / N**0.5)
    assert above.std() / N**0.5 < 0.025


def test_it_prints_as_promised():
    bits = BitsPerDim(1.96812, 0.01432, 186, "", np.zeros(2))
    assert str(bits) == "1.968 +- 0.014 (nfe 186)"
    assert str(bits._replace(given="x")) == "1.968 +- 0.014 (nfe 186, given x)"


@pytest.mark.thorough
def test_a_model_that_gives_nan_is_an_error():
    model = pipeline(points.get_config("moons"), not_a_number)
    with pytest.raises(FloatingPointError, match="3 of 3 likelihoods are not finite"):
        model.bits_per_dim(np.zeros((3, 2), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"probe": "gausian"}, "did you mean 'gaussian'"),
        ({"rtol": 0.0}, "config.eval.rtol is 0.0: it must be positive"),
        ({"atol": float("nan")}, "config.eval.atol is nan"),
        ({"accuracy": 0.0}, "config.eval.accuracy is 0.0: it must be positive"),
        ({"accuracy": 1e-9}, "config.eval.accuracy is 1e-09 bits/dim, which float32 cannot reach"),
        ({"accuracy": 0.1, "rtol": 0.1}, "config.eval.rtol is 0.1 and config.eval.accuracy is 0.1"),
        ({"n_repeats": 0}, "config.eval.n_repeats is 0: it must be at least 1"),
        ({"n_probes": 0}, "config.eval.n_probes is 0"),
        ({"batch_size": 0}, "config.eval.batch_size is 0"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LikelihoodOptions(**fields)


@pytest.mark.thorough
@pytest.mark.parametrize("shape", [(3,), (5, 2), (4, 3, 2), (2, 2, 2, 1)], ids=str)
def test_the_density_of_floats_is_of_the_data_s_own_units(shape):
    """For data N(5 + k, (2 + k)^2) of each channel k, in nats and bits/dim to 1e-3."""
    channels = np.arange(shape[-1])
    config = points.get_config("moons")
    scaling = Scaling(
        None, standardized=True, mean=tuple(5.0 + channels), std=tuple(2.0 + channels)
    )
    made = pipelines.untrained(config)
    model = pipeline(
        config,
        Gaussian(0.0, 1.0).score_fn(made.sde),
        shape=shape,
        scaling=scaling,
        likelihood=LikelihoodOptions(1e-5, 1e-5, "exact"),
    )
    z = np.random.RandomState(0).randn(20, *shape)
    x = model.to_data(z)
    np.testing.assert_allclose(x, 5 + channels + (2 + channels) * z, rtol=1e-5)
    exact = stats.norm.logpdf(x, 5 + channels, 2 + channels).reshape(20, -1).sum(1)
    bits = model.bits_per_dim(x)
    np.testing.assert_allclose(bits.nats, exact, atol=1e-3 * np.prod(shape))
    np.testing.assert_allclose(bits.each, -exact / np.prod(shape) / np.log(2), atol=2e-3)
    figures = metrics.likelihood_figures(model, bits)
    assert figures["test log-likelihood"].startswith(f"{bits.nats.mean():.3f} +- ")
