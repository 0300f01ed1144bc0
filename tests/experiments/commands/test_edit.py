import json
from pathlib import Path

import jax
import numpy as np
import pytest
from exact_models import pipeline
from PIL import Image

import samplers
from configs import digits
from experiments.commands import edit
from experiments.commands.request import Request
from experiments.data.dataset import Dataset

GREY = np.random.RandomState(0).randint(0, 17, (5, 8, 8, 1))
IMAGES = np.where(GREY == 8, 9, GREY).astype(np.uint8)  # 8 is halfway between 127 and 128 of 255


class ExactRequest(Request):
    """A request for a model of Gaussian data."""

    def model(self, step=None):
        sampler = samplers.create("ddim", n_steps=12)
        about = {"folder": self.folder, "step": 7, "sampler": sampler}
        return pipeline(digits.get_config(), None, Dataset(IMAGES, IMAGES, 17), **about)


def config(**fields):
    result = digits.get_config()
    result.edit.update({"n_images": 2} | fields)
    return result


def columns(path):
    """Each column of a picture of 8 x 8 images, as [images, 8, 8]."""
    grid = np.asarray(Image.open(path))[14:]
    grid = np.pad(grid, [(0, 6), (0, 6)])[::6, ::6]
    rows, n = len(grid) // 9, grid.shape[1] // 9
    return grid.reshape(rows, 9, n, 9)[:, :8, :, :8].transpose(2, 0, 1, 3)


@pytest.mark.thorough
def test_inpainting_keeps_what_is_given(tmp_path, capsys):
    request = ExactRequest(config(n_results=3), tmp_path)
    edit.run(request)
    path = capsys.readouterr().out.strip()
    original, given, *results = columns(path)
    assert len(results) == 3
    model = request.model()
    x = model.scaling.to_model(jax.random.key(0), IMAGES[:2], dequantize=False)
    np.testing.assert_array_equal(original, model.to_images(x)[..., 0])
    np.testing.assert_array_equal(given[..., :4], original[..., :4])
    for result in results:
        np.testing.assert_array_equal(result[..., :4], original[..., :4])
        assert (result[..., 4:] != original[..., 4:]).mean() > 0.9
    assert path.rpartition("/")[2].startswith("edit_inpaint_7_DDIM12_seed42_")
    settings = json.loads(Path(path).with_suffix(".json").read_text())
    assert "task='inpaint'" in settings["edit"]


@pytest.mark.thorough
def test_own_images_are_edited_by_a_whole_command(tmp_path, capsys):
    """A whole command: files, a mask file, strength, single results and the grid."""
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "one.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "two.jpg")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    fields = {"images": f"{tmp_path}/two.jpg,{tmp_path}/one.png", "n_results": 2}
    about = {"mask": f"{tmp_path}/mask.png", "strength": 0.5, "mask_blur": 0.5}
    edit.run(ExactRequest(config(**fields, **about), tmp_path))
    grid = Path(capsys.readouterr().out.strip())
    original, _given, *results = columns(grid)
    single = np.asarray(Image.open(grid.with_suffix("") / "000_two_result_2.png"))
    np.testing.assert_array_equal(single, results[1][0])
    assert len(list(grid.with_suffix("").iterdir())) == 4
    assert (single[0] == original[0][0]).all()
    assert (single[2:6, 2:6] != original[0][2:6, 2:6]).mean() > 0.7
    assert "strength=0.5" in json.loads(grid.with_suffix(".json").read_text())["edit"]


@pytest.mark.thorough
def test_reconstruction_prints_its_error(tmp_path, capsys):
    edit.run(ExactRequest(config(task="reconstruct"), tmp_path))
    error, path = capsys.readouterr().out.splitlines()
    assert error.startswith("largest error ")
    assert float(error.split()[-1]) < 1e-3
    original, decoded = columns(path)
    assert np.abs(original.astype(int) - decoded).max() <= 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "inpant"}, "did you mean 'inpaint'"),
        ({"mask": "right"}, "config.edit.mask 'right' is unknown"),
        ({"n_results": 0}, "config.edit.n_results is 0"),
        ({"task": "variations", "strength": 1.5}, "config.edit.strength is 1.5"),
        ({"factor": 4}, "factor is 4, but config.edit.task = 'inpaint' has no such option"),
        ({"step_size": 0.5}, "step_size is 0.5, but config.edit.posterior = 'moment_matching' has"),
        ({"strength": 0.5, "noise_level": 1.0}, "both say where the sampler starts"),
        ({"n_images": 0}, "config.edit.n_images is 0: it must be at least 1"),
        ({"task": "colorize"}, "the data have no colours"),
        ({"images": "gone.png"}, "config.edit.images is 'gone.png', which does not exist"),
        ({"task": "outpaint", "extend": (1, 2)}, "give four numbers of pixels"),
    ],
    ids=str,
)
def test_impossible_edits_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        edit.run(ExactRequest(config(**fields), tmp_path))
