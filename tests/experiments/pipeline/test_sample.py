import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from PIL import Image

from configs import digits, points
from experiments import build
from experiments.pipeline import sample


class ExactNetwork:
    """The network whose score under VP is that of Gaussian data, for points."""

    def __init__(self, config):
        self.sde = build.make_sde(config)

    def apply(self, variables, x, labels, train, rngs):
        alpha2 = 1 - labels**2  # labels are sigma
        variance = (alpha2 * Gaussian().std ** 2 + labels**2)[:, None]
        mean = (jnp.sqrt(alpha2) * Gaussian().mean)[:, None]
        return labels[:, None] * (x - mean) / variance


class Flat:
    """The network of an image model that predicts no noise."""

    def apply(self, variables, x, labels, train, rngs):
        return jnp.zeros_like(x)


def test_samples_have_the_model_moments_and_do_not_depend_on_batches():
    config = points.get_config("moons")
    config.sampling.n_steps = 200
    network = ExactNetwork(config)
    x, nfe = sample.draw(config, network, {}, 4096)  # pyright: ignore
    assert nfe == 200
    assert x.mean() == pytest.approx(Gaussian().mean, abs=4 * 0.7 / np.sqrt(x.size))
    assert x.std() == pytest.approx(Gaussian().std, rel=0.05)
    config.sampling.batch_size = 1000
    again, _ = sample.draw(config, network, {}, 4096)  # pyright: ignore
    np.testing.assert_allclose(x, again, atol=1e-5)


def test_samples_are_positions_where_states_have_velocities(tmp_path):
    """By the score of CLD's prior, which positions then keep: N(0, 1)."""

    class PriorNetwork:
        def apply(self, variables, x, labels, train, rngs):
            return labels[:, None] * x / 0.25  # labels are sigma, the mass is 0.25

    config = points.get_config("moons")
    config.training.sde, config.model.parametrization = "cld", "epsilon"
    config.sampling.method, config.sampling.n_steps = "symmetric_splitting", 20
    config.sampling.noise_removal = False
    x, nfe = sample.draw(config, PriorNetwork(), {}, 4096)  # pyright: ignore
    assert nfe == 20
    np.testing.assert_allclose(np.cov(x.T), np.eye(2), atol=0.1)
    path = sample.draw_paths(config, PriorNetwork(), {}, 4096)  # pyright: ignore
    assert path.shape == (11, 4096, 2)
    np.testing.assert_allclose(path.std(axis=(1, 2)), 1, atol=0.06)


def test_samples_that_are_not_finite_are_an_error():
    class Broken:
        def apply(self, variables, x, labels, train, rngs):
            return x * jnp.nan

    config = points.get_config("moons")
    with pytest.raises(FloatingPointError, match="samples are not finite"):
        sample.draw(config, Broken(), {}, 4)  # pyright: ignore


def test_pictures_of_images(tmp_path):
    config = digits.get_config("ve")
    config.sampling.n_steps, config.sampling.n_samples = 12, 5
    paths = sample.save_pictures(config, Flat(), {}, 7, tmp_path)  # pyright: ignore
    assert [path.name for path in paths] == ["samples_7.png", "path_7.png"]
    grid, way = (Image.open(path) for path in paths)
    assert grid.size == (6 * (3 * 9 - 1), 6 * (2 * 9 - 1))  # 5 images in 3 columns, enlarged by 6
    assert way.size == (6 * (11 * 9 - 1), 6 * (sample.N_PATHS * 9 - 1))
    assert '"seed": 42' in grid.info["Parameters"]
    assert "vesde" in grid.info["Parameters"]
    assert "Generated" in grid.info["Description"]


def test_pictures_of_points(tmp_path):
    config = points.get_config("moons")
    config.sampling.n_steps, config.sampling.n_samples = 30, 100
    for path in sample.save_pictures(config, ExactNetwork(config), {}, 3, tmp_path):  # pyright: ignore
        with Image.open(path) as image:
            assert image.size[0] > 400
            assert "moons" in image.info["Parameters"]
