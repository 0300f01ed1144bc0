import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import samplers
from experiments.studies.guidance import points
from experiments.studies.guidance.options import Options
from sde_lib import EDM

OPTIONS = Options((1.0, 3.0), ("constant",), ("heun",), (39,), n_samples=1000, n_seeds=2)
HEUN = samplers.create("heun", n_steps=20)


@pytest.fixture(scope="module")
def results():
    found = points.measure(EDM(), [("heun", HEUN)], OPTIONS, seed=0)
    return {(result.guidance, result.weight): result for result, _ in found}


@pytest.mark.thorough
def test_the_weight_one_samples_the_class(results):
    for kind in points.KINDS:
        exact, guided = results[f"exact, {kind}", 1.0], results[kind, 1.0]
        assert guided.to_class.value < exact.to_class.value + 0.02
        assert guided.share.value == pytest.approx(exact.share.value, abs=0.02)
        assert guided.spread.value == pytest.approx(1, abs=0.02)


@pytest.mark.thorough
def test_larger_weights_sample_neither_the_class_nor_the_tilted_density(results):
    """The class is more certain than under the tilted density. Autoguidance is nearer to it."""
    for kind in points.KINDS:
        guided, exact = results[kind, 3.0], results[f"exact, {kind}", 3.0]
        assert guided.to_class.value > exact.to_class.value + 0.02
        assert guided.share.value > exact.share.value > results[kind, 1.0].share.value
    free, auto = results["classifier_free", 3.0], results["autoguidance", 3.0]
    assert free.to_tilted.value > results["exact, classifier_free", 3.0].to_tilted.value + 0.1
    assert free.to_tilted.value > auto.to_tilted.value + 0.1
    assert free.spread.value > 1.1 > 1.0 > auto.spread.value


@pytest.mark.thorough
def test_classifier_and_classifier_free_guidance_are_the_same_with_exact_scores(results):
    x, t = jax.random.normal(jax.random.key(0), (50, 2)), jnp.linspace(0.01, 20, 50)
    one, other = (
        points.KINDS[name].score(EDM(), 2.5) for name in ("classifier", "classifier_free")
    )
    np.testing.assert_allclose(one(x, t), other(x, t), rtol=1e-3, atol=1e-3)
    pairs = zip(results["classifier", 3.0][3:], results["classifier_free", 3.0][3:], strict=True)
    for mine, theirs in pairs:
        assert mine.value == pytest.approx(theirs.value, rel=1e-3)


def test_the_tilted_density_is_the_product_of_powers():
    """On a coarser grid, by SciPy's densities: the mean square of the first coordinate."""

    def density(mixture, x):
        parts = [multivariate_normal(mean, mixture.std**2).pdf(x) for mean in mixture.means]
        return np.mean(parts, axis=0)

    x = np.stack(np.meshgrid(*[np.linspace(-4, 4, 161)] * 2), axis=-1)
    tilted = density(points.CLASS, x) ** 2 / density(points.ALL, x)
    square = np.sum(tilted * x[..., 0] ** 2) / np.sum(tilted)
    found = points.tilted(2.0, points.ALL)
    assert np.sum(found * points._centres() ** 2) == pytest.approx(square, rel=1e-3)


@pytest.mark.thorough
def test_samples_of_a_grid_have_its_moments():
    density = points.tilted(1.0, points.ALL)
    x = points._of_grid(density, 20_000, 0)
    covariance = points.CLASS.covariance
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.05)
    np.testing.assert_allclose(x.mean(axis=0), points.CLASS.mean, atol=0.03)
