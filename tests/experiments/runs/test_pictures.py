import json

import numpy as np
import pytest
from PIL import Image

from experiments.runs import pictures

ABOUT = pictures.provenance(config={"model": {"nf": 8}}, seed=3)


def test_a_grid_holds_the_images_in_order(tmp_path):
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((50, 50, 3), np.uint8)
    path = pictures.save_grid(tmp_path / "new" / "grid.png", images, 3, ABOUT)
    grid = np.asarray(Image.open(path))
    assert grid.shape == (101, 152, 3)
    assert [grid[20 + 51 * (i // 3), 20 + 51 * (i % 3), 0] for i in range(5)] == [0, 1, 2, 3, 4]


def test_small_images_are_enlarged_and_grey_ones_stay_grey(tmp_path):
    path = pictures.save_grid(tmp_path / "g.png", np.full((1, 8, 8, 1), 9, np.uint8), 1, ABOUT)
    with Image.open(path) as image:
        assert (image.size, image.mode) == ((48, 48), "L")


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_other_channels_are_grey_tiles_from_left_to_right(tmp_path, channels):
    levels = 10 * (1 + np.arange(2 * channels, dtype=np.uint8).reshape(2, 1, 1, channels))
    path = pictures.save_grid(tmp_path / "g.png", np.tile(levels, (1, 50, 50, 1)), 2, ABOUT)
    grid = np.asarray(Image.open(path))
    assert grid.shape == (50, 2 * 50 * channels + 1)
    middles = [25 + 50 * k + k // channels for k in range(2 * channels)]
    np.testing.assert_array_equal(grid[20, middles], levels.ravel())
    single = pictures.to_picture(np.tile(levels[1], (6, 7, 1)))
    assert (single.mode, single.size) == ("L", (7 * channels, 6))


def test_names_stand_left_of_their_rows(tmp_path):
    images = np.zeros((4, 48, 48, 3), np.uint8)
    bare = pictures.save_grid(tmp_path / "a.png", images, 2, ABOUT, ["left", "right"])
    named = pictures.save_grid(
        tmp_path / "b.png", images, 2, ABOUT, ["left", "right"], ["up", "low"]
    )
    (plain, grid) = (np.asarray(Image.open(path)) for path in (bare, named))
    margin = grid.shape[1] - plain.shape[1]
    assert margin > 8
    np.testing.assert_array_equal(grid[:, margin:], plain)
    words = grid[:, :margin].max(axis=(1, 2))
    assert min(words[14:62].max(), words[63:].max()) > 200  # smooth edges of letters


def test_titles_stand_above_their_columns(tmp_path):
    images = np.zeros((2, 48, 48, 3), np.uint8)
    path = pictures.save_grid(tmp_path / "g.png", images, 2, ABOUT, ["left", "right"])
    grid = np.asarray(Image.open(path))
    assert grid.shape == (48 + pictures.TITLE_HEIGHT, 97, 3)
    above = grid[: pictures.TITLE_HEIGHT].max(axis=(0, 2))
    assert min(above[:48].max(), above[49:].max()) > 100
    assert not grid[pictures.TITLE_HEIGHT :].any()


def test_a_picture_says_that_a_model_made_it_and_how(tmp_path):
    path = pictures.save_grid(tmp_path / "a.png", np.zeros((1, 8, 8, 1), np.uint8), 1, ABOUT)
    check_provenance(path)


def check_provenance(path):
    with Image.open(path) as image:
        assert image.info["DigitalSourceType"] == "trainedAlgorithmicMedia"
        parameters = json.loads(image.info["Parameters"])
        assert parameters == {"config": {"model": {"nf": 8}}, "seed": 3}
