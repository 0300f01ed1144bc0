import json

import numpy as np
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


def test_every_picture_says_that_a_model_made_it(tmp_path):
    metrics = [{"step": step, "loss": 1 / step, "grad_norm": 1.0} for step in (1, 2, 3)]
    points = np.random.RandomState(0).randn(50, 2)
    paths = [
        pictures.save_grid(tmp_path / "a.png", np.zeros((1, 8, 8, 1), np.uint8), 1, ABOUT),
        pictures.save_loss_curve(tmp_path / "b.png", metrics, ABOUT),
        pictures.save_points(tmp_path / "c.png", points, points, np.eye(8), 3.0, ABOUT),
        pictures.save_point_path(tmp_path / "d.png", np.stack([points, points]), ABOUT),
    ]
    for path in paths:
        with Image.open(path) as image:
            assert image.info["DigitalSourceType"] == "trainedAlgorithmicMedia"
            parameters = json.loads(image.info["Parameters"])
            assert parameters == {"config": {"model": {"nf": 8}}, "seed": 3}
