import numpy as np
import pytest
import saved_runs
from PIL import Image

from configs import cifar10, digits, points
from experiments.commands import edit
from experiments.commands.request import Request


def config():
    """An unconditional U-Net of one level on digits."""
    config = digits.get_config()
    config.model.update(nf=8, ch_mult=(1,), attn_resolutions=(), num_res_blocks=0)
    config.sampling.method, config.sampling.n_steps = "heun", 4
    config.edit.n_images = 2
    return config


@pytest.fixture(scope="module")
def request_(tmp_path_factory):
    """The request for a run with random weights."""
    folder = tmp_path_factory.mktemp("run")
    saved_runs.save(config(), folder)
    return Request(config(), folder)


def columns(path):
    """Each column of a picture of 8 x 8 images, as [images, 8, 8]."""
    grid = np.asarray(Image.open(path))[14:]
    grid = np.pad(grid, [(0, 6), (0, 6)])[::6, ::6]
    rows, n = len(grid) // 9, grid.shape[1] // 9
    return grid.reshape(rows, 9, n, 9)[:, :8, :, :8].transpose(2, 0, 1, 3)


def test_results_are_drawn_beside_the_first_test_images(request_, capsys):
    request_.config.edit.task, request_.config.edit.n_results = "variations", 3
    edit.run(request_)
    path = capsys.readouterr().out.strip()
    assert "/samples/edit_variations_1_Heun4_seed42_" in path
    original, *results = columns(path)
    assert len(results) == 3
    model = request_.model()
    images = model.dataset().test[:2, ..., 0].astype(float)
    np.testing.assert_array_equal(original, np.rint(images * 255 / 16))
    assert all((result != original).any() for result in results)


def test_the_error_of_a_reconstruction_is_printed(request_, capsys, monkeypatch):
    request_.config.edit.task, request_.config.edit.n_results = "reconstruct", None
    shifted = lambda model, x, options: {"original": x, "decoded": x + 0.125}  # noqa: E731
    monkeypatch.setattr(edit.edit, "edit", shifted)
    edit.run(request_)
    error, path = capsys.readouterr().out.splitlines()
    assert error == "largest error 1.25e-01"
    assert len(columns(path)) == 2


@pytest.mark.parametrize(
    ("module", "fields", "message"),
    [
        (digits, {"task": "inpant"}, "did you mean 'inpaint'"),
        (digits, {"mask": "right"}, "config.edit.mask 'right' is unknown"),
        (digits, {"task": "variations", "strength": 1.5}, "config.edit.strength is 1.5"),
        (digits, {"strength": 0.5}, "'inpaint' has no such option.*'variations'"),
        (digits, {"n_results": 0}, "config.edit.n_results is 0"),
        (digits, {"task": "interpolate", "n_images": 1}, "n_images is 1: it must be at least 2"),
        (points, {"n_images": 0}, "n_images is 0"),
        (cifar10, {"n_iterations": 0}, "config.edit.n_iterations is 0"),
    ],
)
def test_impossible_edits_are_refused(module, fields, message, tmp_path):
    config = module.get_config()
    with config.ignore_type():
        config.edit.update(fields)
    with pytest.raises(ValueError, match=message):
        edit.run(Request(config, tmp_path))
