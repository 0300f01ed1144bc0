import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from scipy import stats

from configs import digits, points
from experiments import build
from experiments.data import data
from experiments.evaluation import likelihood

SIDE = 3


class ExactNetwork:
    """The network whose score under VP is that of N(mean, std^2) data."""

    gaussian = Gaussian(mean=0.1, std=0.3)

    def __init__(self, config):
        self.sde = build.make_sde(config)

    def apply(self, variables, x, labels, train, rngs):
        t = labels / 999
        sigma = self.sde.sigma(t)[:, None, None, None]
        return -sigma * self.gaussian.score_fn(self.sde)(x, t)


def gaussian_images(n):
    """Grey levels of dequantised data that is N(0.1, 0.3^2) in [-1, 1], to within a level."""
    x = ExactNetwork.gaussian.sample(jax.random.key(5), (n, SIDE, SIDE, 1))
    return np.clip(np.floor((np.asarray(x) + 1) / 2 * 256), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("batch_size", [500, 170])
def test_bits_per_dim_of_gaussian_images_is_the_closed_form(batch_size):
    """Against the exact entropy of the grey levels, paired on the same images: 2e-3 bits/dim."""
    config = digits.get_config()
    config.data.image_size, config.eval.batch_size = SIDE, batch_size
    config.eval.rtol = config.eval.atol = 1e-5
    images = gaussian_images(500)
    dataset = data.Dataset(images, images, levels=256)
    bits = likelihood.bits_per_dim(config, ExactNetwork(config), {}, dataset)  # pyright: ignore
    edges = np.linspace(-1, 1, 257)
    probabilities = np.diff(stats.norm.cdf(edges, 0.1, 0.3))
    exact = -np.log2(probabilities[images]).mean(axis=(1, 2, 3))
    assert bits.mean == pytest.approx(exact.mean(), abs=2e-3)
    assert bits.error == pytest.approx(exact.std(ddof=1) / np.sqrt(500), rel=0.02)


class Unquantised:
    """The network whose v under "log_linear" is that of N(mean, std^2) data."""

    def __init__(self, config):
        self.sde = build.make_sde(config)

    def apply(self, variables, x, labels, train, rngs):
        t = labels / 999
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        score = ExactNetwork.gaussian.score_fn(self.sde)(x, t)
        return -(x + score) * (sigma / alpha)[:, None, None, None]


def test_vdm_s_bound_and_its_flow_are_those_of_gaussian_grey_levels():
    """Above the exact entropy of the grey levels, by 1e-3 bits/dim for noise of 1.4 steps."""
    config = digits.get_config("vdm_fixed")
    config.data.image_size, config.eval.batch_size = SIDE, 170
    config.eval.rtol = config.eval.atol = 1e-5
    config.eval.bound_steps = 50
    x = ExactNetwork.gaussian.sample(jax.random.key(5), (500, SIDE, SIDE, 1))
    images = np.clip(np.round((np.asarray(x) + 1) / 2 * 255), 0, 255).astype(np.uint8)
    dataset, model = data.Dataset(images, images, levels=256), Unquantised(config)
    edges = (np.arange(257) - 0.5) * 2 / 255 - 1
    probabilities = np.diff(stats.norm.cdf(edges, 0.1, 0.3))
    exact = -np.log2(probabilities[images]).mean(axis=(1, 2, 3))
    bits = likelihood.bits_per_dim(config, model, {}, dataset)  # pyright: ignore
    terms = likelihood.continuous_bound(config, model, {}, dataset)  # pyright: ignore
    above = sum(terms.values()) - exact
    assert bits.mean == pytest.approx(exact.mean() + 1e-3, abs=2e-3)
    assert above.mean() == pytest.approx(1e-3, abs=4 * above.std() / 500**0.5)
    assert above.std() / 500**0.5 < 0.025


def test_it_prints_as_promised():
    assert str(likelihood.BitsPerDim(1.96812, 0.01432, 186)) == "1.968 +- 0.014 (nfe 186)"


def test_a_model_that_gives_nan_is_an_error():
    class Broken:
        def apply(self, variables, x, labels, train, rngs):
            return x * jnp.nan

    config = points.get_config("moons")
    with pytest.raises(FloatingPointError, match="likelihoods are not finite"):
        likelihood.bits_per_dim(config, Broken(), {}, data.load(config))  # pyright: ignore
