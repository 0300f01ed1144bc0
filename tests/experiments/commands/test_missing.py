"""Runs of data with missing values, from the file to the reports."""

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from exact_models import pipeline
from tiny_configs import digits_config, table_config

from configs import points
from experiments.commands import edit, train
from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.pipeline.edit import Edit


def run(command, config, folder):
    with redirect_stdout(io.StringIO()) as printed:
        command.run(Request(config, folder))
    return printed.getvalue()


def config_with_gaps(path):
    config = table_config(path)
    config.data.missing = "mask"
    config.training.at_end = ("likelihood", "baselines")
    config.eval.num_samples = 20
    config.edit.update(task="impute", n_images=2, n_results=2)
    return config


@pytest.mark.thorough
def test_a_table_with_gaps_trains_is_scored_and_filled_in(tmp_path):
    values = 5 + [1, 10, 100] * np.random.RandomState(0).randn(60, 3)
    values[::2, 1] = values[1::3, 2] = np.nan
    lines = [",".join("" if np.isnan(v) else str(v) for v in row) for row in values]
    path, folder = tmp_path / "a table 数.csv", tmp_path / "run"
    path.write_text("\n".join(["a,b,c", *lines]))
    config = config_with_gaps(path)
    printed = run(train, config, folder)
    assert "test log-likelihood" in printed
    assert "no baselines" in printed
    arrays, picture = run(edit, config, folder).split()
    assert picture.endswith(".png")
    with np.load(arrays) as saved:
        given, imputed = saved["given"], saved["imputed"]
    assert np.isnan(given).any(axis=1).all()
    assert imputed.shape == (2, 2, 3)
    seen = ~np.isnan(given)
    assert (imputed[:, 0][seen] == given[seen]).all()


def images_config(path):
    config = digits_config()
    config.data.update(dataset="arrays", path=str(path), dtype="uint8", missing="mask")
    config.data.update(image_size=8, num_channels=1)
    config.model.update(class_conditional=False, label_dropout=0.0)
    config.training.update(n_iters=1, at_end=("likelihood",))
    config.edit.update(task="impute", n_images=2, n_results=2)
    return config


@pytest.mark.slow
def test_grey_levels_with_a_mask_train_and_are_filled_in(tmp_path):
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", data=images, mask=random.rand(40, 8, 8) < 0.8)
    config, folder = images_config(tmp_path / "x.npz"), tmp_path / "run"
    assert "test bits/dim" in run(train, config, folder)
    arrays, picture = run(edit, config, folder).split()
    assert picture.endswith(".png")
    with np.load(arrays) as saved:
        assert saved["imputed"].dtype == np.uint8


def test_nothing_to_fill_in_is_an_error():
    data = Dataset(*np.zeros((2, 4, 2), np.float32), None)
    model = pipeline(points.get_config("moons"), dataset=data)
    with pytest.raises(ValueError, match="none of the 4 test samples has a missing value"):
        edit.impute(model, Edit("impute"), 8)
