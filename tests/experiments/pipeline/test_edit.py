import jax
import numpy as np
import pytest
from closed_forms import Gaussian
from exact_models import not_a_number, pipeline

import samplers
from configs import digits, points
from experiments.build import pipelines
from experiments.pipeline import draw, edit
from experiments.pipeline.edit import Edit


@pytest.fixture(scope="module")
def model():
    """A model of Gaussian images of 8 x 8 pixels."""
    return pipeline(digits.get_config("vp_score_sde"), sampler=samplers.create("ddim", n_steps=12))


@pytest.fixture(scope="module")
def x():
    return np.asarray(Gaussian().sample(jax.random.key(0), (3, 8, 8, 1)))


@pytest.mark.thorough
def test_inpainting_keeps_what_is_given(model, x):
    columns = model.edit(x, "inpaint", n_results=3)
    assert list(columns) == ["original", "given", "result 1", "result 2", "result 3"]
    np.testing.assert_array_equal(columns["original"], x)
    np.testing.assert_array_equal(columns["given"][:, :, :4], x[:, :, :4])
    for k in (1, 2, 3):
        result = columns[f"result {k}"]
        np.testing.assert_allclose(result[:, :, :4], x[:, :, :4], atol=0.02)
        assert (np.abs(result - x)[:, :, 4:] > 0.02).mean() > 0.9


@pytest.mark.thorough
def test_reconstruction_is_exact_to_the_tolerance(model, x):
    columns = model.edit(x, "reconstruct")
    assert list(columns) == ["original", "decoded"]
    np.testing.assert_allclose(columns["decoded"], x, atol=1e-3)


@pytest.mark.thorough
def test_interpolation_goes_from_one_image_to_the_next(model, x):
    columns = model.edit(x[:2], "interpolate", n_results=7)
    frames = np.concatenate(list(columns.values()))
    first = np.sqrt(np.mean((frames - frames[0]) ** 2, axis=(1, 2, 3)))
    assert len(frames) == 9
    assert (np.diff(first) > 0).all()
    steps = np.sqrt(np.mean(np.diff(frames, axis=0) ** 2, axis=(1, 2, 3)))
    assert steps.max() < 1.5 * steps.min()


@pytest.mark.parametrize(
    "task", ["variations", pytest.param("interpolate", marks=pytest.mark.slow)]
)
def test_results_do_not_depend_on_how_many_rows_are_made_at_a_time(model, x, task):
    """Interpolated pairs overlap by an image; noise belongs to a result's place in the picture."""
    together, alone = (
        model.replace(batch_size=size).edit(x, task, n_results=2) for size in (64, 1)
    )
    assert together.keys() == alone.keys()
    for title, column in together.items():
        np.testing.assert_allclose(column, alone[title], atol=1e-3)


@pytest.mark.thorough
def test_batches_of_size_0_fit_the_memory_of_the_edit_itself(model, x, monkeypatch):
    """A posterior sampler takes derivatives of the network: more memory than plain samples."""
    found = {}

    def fitting(mesh, lower, n, n_states):
        memory = lower(4).compile().memory_analysis()
        found[n_states] = memory.temp_size_in_bytes
        return 2

    monkeypatch.setattr(draw, "fitting", fitting)
    whole = model.edit(x, "inpaint", n_results=2)
    fitted = model.replace(batch_size=0).edit(x, "inpaint", n_results=2)
    np.testing.assert_allclose(fitted["result 2"], whole["result 2"], atol=1e-3)
    model.replace(batch_size=0).edit(x, "variations", n_results=1)
    assert found[2] > 2.5 * found[1]  # twice as many states, and their derivatives


def test_variations_of_strength_0_are_the_original(model, x):
    columns = model.edit(x, "variations", n_results=2, strength=0.0)
    for k in (1, 2):
        np.testing.assert_allclose(columns[f"result {k}"], x, atol=1e-3)


@pytest.mark.thorough
def test_colours_have_the_given_grey(model):
    config = digits.get_config("vp_score_sde")
    config.data.num_channels, config.data.image_size = 3, 4
    colours = pipeline(config, sampler=model.sampler)
    x = np.asarray(jax.random.uniform(jax.random.key(0), (2, 4, 4, 3)))
    columns = colours.edit(x, "colorize", n_results=3)
    assert columns.keys() == {"original", "given", "result 1", "result 2", "result 3"}
    np.testing.assert_allclose(columns["result 2"].mean(-1), x.mean(-1), atol=1e-5)
    assert not np.allclose(columns["result 2"], columns["result 3"], atol=0.1)


def test_masks_are_those_named():
    left, centre = (edit.MASKS[name](8, 8) for name in ("left", "centre"))
    assert left[:, :4].all()
    assert not left[:, 4:].any()
    assert not centre[2:6, 2:6].any()
    assert centre.sum() == 64 - 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "inpant"}, "did you mean 'inpaint'"),
        ({"mask": "right"}, "config.edit.mask 'right' is unknown"),
        ({"strength": 1.5}, "config.edit.strength is 1.5"),
        ({"n_results": 0}, "config.edit.n_results is 0"),
        ({"n_iterations": 0}, "config.edit.n_iterations is 0"),
    ],
)
def test_impossible_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Edit(**fields)


def untrained(**changes):
    config = digits.get_config("vp_score_sde")
    config.update_from_flattened_dict(changes)
    return pipelines.untrained(config)


LANGEVIN = {
    "training.sde": "cld",
    "sampling.method": "symmetric_splitting",
    "training.likelihood_weighting": False,
    "training.importance_sampling": False,
}


@pytest.mark.parametrize(
    ("made", "task", "message"),
    [
        (lambda: untrained(), "colorize", "the data have no colours: config.edit.task"),
        (
            lambda: pipelines.untrained(points.get_config()),
            "inpaint",
            "the data are points: mode edit needs images",
        ),
        (lambda: untrained(**LANGEVIN), "inpaint", "whose states are more than images"),
        (
            lambda: untrained(**{"model.low_res_size": 4}),
            "outpaint",
            "the model is conditioned on images of its own size",
        ),
    ],
)
def test_models_that_cannot_edit_are_refused(made, task, message):
    with pytest.raises(ValueError, match=message):
        edit.check(made(), Edit(task))


@pytest.mark.thorough
def test_results_that_are_not_finite_are_an_error(model, x):
    broken = model.replace(model=pipeline(digits.get_config("vp_score_sde"), not_a_number).model)
    with pytest.raises(FloatingPointError, match="results are not finite"):
        broken.edit(x, "variations", n_results=1)
