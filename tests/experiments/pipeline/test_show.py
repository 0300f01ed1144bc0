import json

import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import pipeline
from PIL import Image

import samplers
from configs import digits, points
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.pipeline import show


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A model of images that predicts no noise."""
    config = digits.get_config("ve")
    config.sampling.n_steps = 12
    folder = tmp_path_factory.mktemp("images")
    return pipeline(config, lambda x, t: jnp.zeros_like(x), step=7, folder=folder)


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    config = points.get_config("moons")
    sampler = samplers.create("ddim", n_steps=30)
    return pipeline(config, step=3, folder=tmp_path_factory.mktemp("moons"), sampler=sampler)


def settings_of(path):
    return json.loads(path.with_suffix(".json").read_text())


@pytest.mark.thorough
def test_pictures_of_images(images):
    path, way = show.save_samples(images, 5), show.save_paths(images)
    digest = images.identity()[:6]
    assert path.name == f"samples_7_DPMpp2MSDE12_seed42_{digest}.png"
    assert way.name == f"path_7_DPMpp2MSDE12_seed42_{digest}.png"
    grid, frames = (Image.open(each) for each in (path, way))
    assert grid.size == (6 * (3 * 9 - 1), 6 * (2 * 9 - 1))  # 5 images in 3 columns, enlarged by 6
    assert frames.size == (6 * (11 * 9 - 1), 6 * (show.N_PATHS * 9 - 1))
    assert '"seed": 42' in grid.info["Parameters"]
    assert "VE(" in grid.info["Parameters"]
    assert "Generated" in grid.info["Description"]
    found = settings_of(path)
    assert (found["step"], found["seed"], found["n_samples"]) == (7, 42, 5)
    assert found["digest"] == images.identity()


@pytest.mark.thorough
def test_pictures_of_points(moons, monkeypatch):
    monkeypatch.setattr(show, "DENSITY_SIDE", 24)
    for path in (show.save_samples(moons, 100), show.save_paths(moons)):
        with Image.open(path) as image:
            assert image.size[0] > 400
            assert '"sampler": "DDIM(' in image.info["Parameters"]


@pytest.mark.thorough
def test_every_setting_that_decides_on_samples_is_in_the_name(images):
    first = show.stem(images, "samples")
    for changed in (
        images.replace(seed=1),
        images.replace(step=8),
        images.replace(sampler=samplers.create("heun", n_steps=12)),
        images.replace(params={"w": np.ones(1)}),
    ):
        assert show.stem(changed, "samples") != first
    assert show.stem(images.replace(batch_size=3), "samples") == first


@pytest.mark.thorough
def test_files_of_single_images_and_of_arrays(images):
    folder, path = show.save_files(images, 3, single=True, arrays=True)
    assert [file.name for file in sorted(folder.iterdir())] == [f"{k:06d}.png" for k in range(3)]
    with np.load(path) as arrays, Image.open(folder / "000002.png") as image:
        assert arrays["samples"].shape == (3, 8, 8, 1)
        np.testing.assert_array_equal(arrays["images"], images.to_images(arrays["samples"]))
        np.testing.assert_array_equal(np.asarray(image), arrays["images"][2, ..., 0])
    assert settings_of(path)["n_samples"] == 3


@pytest.mark.thorough
@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (12, 2), (4, 6, 1), (4, 6, 6, 1)], ids=str)
def test_pictures_of_standardised_data_of_any_shape(shape, tmp_path):
    """Files of samples have the data's own units."""
    config, n = points.get_config("moons"), shape[-1]
    scaling = Scaling(None, standardized=True, mean=(100.0,) * n, std=(2.0,) * n)
    values = 100 + 2 * np.random.RandomState(0).randn(64, *shape).astype(np.float32)
    dataset = Dataset(values, values, None, columns=tuple(map(str, range(shape[0]))))
    about = {"sampler": samplers.create("ddim", n_steps=12), "folder": tmp_path, "step": 1}
    model = pipeline(config, dataset=dataset, shape=shape, scaling=scaling, **about)
    for path in (show.save_samples(model, 6), show.save_paths(model)):
        with Image.open(path) as image:
            assert image.size[0] > 40
    (path,) = show.save_files(model, 6, single=False, arrays=True)
    with np.load(path) as arrays:
        np.testing.assert_allclose(arrays["samples"].mean(), 100, atol=8)
    assert show.made(model, 6, single=False, arrays=True)


def test_log_densities_are_beside_the_samples_and_in_their_units(moons):
    drawn = np.ones((3, 2)), 5, np.array([0.1, 0.2, 0.3])
    (path,) = show.save_files(moons, 3, single=False, arrays=True, drawn=drawn)
    np.testing.assert_allclose(np.load(path)["log_prob"], drawn[2])
    scaling = Scaling(None, standardized=True, mean=(1.0, 1.0), std=(2.0, 3.0))
    model = moons.replace(scaling=scaling, seed=7)
    (path,) = show.save_files(model, 3, single=False, arrays=True, drawn=drawn)
    found = np.load(path)
    np.testing.assert_allclose(found["samples"], [[3, 4]] * 3)
    np.testing.assert_allclose(found["log_prob"], drawn[2] - np.log(6))
