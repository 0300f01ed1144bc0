import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from PIL import Image

from configs import cifar10, digits, points
from experiments import build
from experiments.commands import edit
from experiments.data import data
from experiments.training import state


class ExactNetwork:
    """The network whose score under VP is that of Gaussian data, for images."""

    def __init__(self, config):
        self.sde = build.make_sde(config)

    def apply(self, variables, x, labels, train, rngs):
        t = labels / 999
        return -Gaussian().score_fn(self.sde)(x, t) * self.sde.sigma(t)[:, None, None, None]


@pytest.fixture
def config(monkeypatch):
    config = digits.get_config()
    config.edit.n_images, config.edit.n_results = 2, 3
    config.sampling.n_steps = 40
    monkeypatch.setattr(state, "load", lambda config, workdir: (ExactNetwork(config), {}, 7))
    return config


def columns(path):
    """Each column of a picture of 8 x 8 images, as [images, 8, 8]."""
    grid = np.asarray(Image.open(path))[14:]
    grid = np.pad(grid, [(0, 6), (0, 6)])[::6, ::6]
    rows, n = len(grid) // 9, grid.shape[1] // 9
    return grid.reshape(rows, 9, n, 9)[:, :8, :, :8].transpose(2, 0, 1, 3)


def originals(config):
    dataset = data.load(config)
    x = data.to_model_space(
        config, dataset.levels, jax.random.key(0), jnp.asarray(dataset.test[:2]), dequantize=False
    )
    return data.to_uint8(config, np.asarray(x))[..., 0]


def test_inpainting_keeps_what_is_given(config, tmp_path, capsys):
    edit.run(config, tmp_path)
    original, given, *results = columns(capsys.readouterr().out.strip())
    assert len(results) == 3
    np.testing.assert_array_equal(original, originals(config))
    np.testing.assert_array_equal(given[..., :4], original[..., :4])
    for result in results:
        np.testing.assert_array_equal(result[..., :4], original[..., :4])
        assert (result[..., 4:] != original[..., 4:]).mean() > 0.9


def test_reconstruction_is_exact_to_the_tolerance(config, tmp_path, capsys):
    config.edit.task = "reconstruct"
    edit.run(config, tmp_path)
    error, path = capsys.readouterr().out.splitlines()
    assert float(error.split()[-1]) < 1e-3
    original, decoded = columns(path)
    assert np.abs(original.astype(int) - decoded).max() <= 1


def test_interpolation_goes_from_one_image_to_the_next(config, tmp_path, capsys):
    config.edit.task, config.edit.n_results = "interpolate", 7
    edit.run(config, tmp_path)
    frames = columns(capsys.readouterr().out.strip())[:, 0].astype(float)
    first = np.sqrt(np.mean((frames - frames[0]) ** 2, axis=(1, 2)))
    assert len(frames) == 9
    assert (np.diff(first) > 0).all()
    steps = np.sqrt(np.mean(np.diff(frames, axis=0) ** 2, axis=(1, 2)))
    assert steps.max() < 1.5 * steps.min()


@pytest.mark.slow
def test_results_do_not_depend_on_how_many_rows_are_made_at_a_time(config, tmp_path, capsys):
    """Interpolated pairs overlap by an image; noise belongs to a result's place in the picture."""
    for task in ("variations", "interpolate"):
        config.edit.task, config.edit.n_images, config.sampling.n_steps = task, 3, 10
        together, alone = [], []
        for size, made in ((64, together), (1, alone)):
            config.sampling.batch_size = size
            edit.run(config, tmp_path)
            made.append(columns(capsys.readouterr().out.strip()))
        assert np.abs(together[0].astype(int) - alone[0]).max() <= 1


def test_variations_of_strength_0_are_the_original(config, tmp_path, capsys):
    config.edit.task, config.edit.strength = "variations", 0.0
    edit.run(config, tmp_path)
    original, *results = columns(capsys.readouterr().out.strip())
    for result in results:
        np.testing.assert_array_equal(result, original)


def test_colours_have_the_given_grey(config):
    config.data.num_channels = 3
    config.edit.task, sde = "colorize", build.make_sde(config)
    x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 3))
    score_fn = Gaussian().score_fn(sde)
    drawn = jax.jit(lambda key, x: edit.TASKS["colorize"](config, key, sde, score_fn, x, 0))(
        jax.random.key(1), x
    )
    assert drawn.keys() == {"original", "given", "result 1", "result 2", "result 3"}
    np.testing.assert_allclose(drawn["result 2"].mean(-1), x.mean(-1), atol=1e-5)
    assert not np.allclose(drawn["result 2"], drawn["result 3"], atol=0.1)


def test_masks_are_those_named():
    left, centre = (edit.MASKS[name](8) for name in ("left", "centre"))
    assert left[:, :4].all()
    assert not left[:, 4:].any()
    assert not centre[2:6, 2:6].any()
    assert centre.sum() == 64 - 16


@pytest.mark.parametrize(
    ("module", "fields", "message"),
    [
        (digits, {"task": "inpant"}, "did you mean 'inpaint'"),
        (digits, {"mask": "right"}, "config.edit.mask 'right' is unknown"),
        (digits, {"strength": 1.5}, "config.edit.strength is 1.5"),
        (digits, {"n_results": 0}, "config.edit.n_results is 0"),
        (digits, {"task": "interpolate", "n_images": 1}, "n_images is 1: it must be at least 2"),
        (digits, {"task": "colorize"}, "'digits' has no colours"),
        (points, {}, "'swiss_roll' are points"),
        (cifar10, {"n_iterations": 0}, "config.edit.n_iterations is 0"),
    ],
)
def test_what_cannot_be_edited_is_refused(module, fields, message, tmp_path):
    config = module.get_config()
    config.edit.update(fields)
    with pytest.raises(ValueError, match=message):
        edit.run(config, tmp_path)


def test_states_that_are_more_than_images_are_not_edited(tmp_path):
    config = digits.get_config()
    config.training.sde = "cld"
    with pytest.raises(ValueError, match="whose states are more than images"):
        edit.run(config, tmp_path)
