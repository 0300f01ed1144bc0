"""Conditioning on images beside x, from the data's own units to the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import pipeline

from configs import digits
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.pipeline.conditions import Conditions, Image
from experiments.training.objective import RAW_IMAGES
from models.operators import Grey, LowRes, Masked

RANDOM = np.random.RandomState(0)
GREY = RANDOM.randint(0, 256, (6, 8, 8, 3)).astype(np.uint8)
SCALING = Scaling(256)
FLOATS = (3 * RANDOM.randn(6, 8, 8, 2) + 5).astype(np.float32)


def derived(operator, shape=(8, 8, 3), scaling=SCALING):
    source = operator.shape(shape)
    return Image((*shape[:-1], source[-1]), scaling, operator, source)


def paired(images, channels=2):
    halves = {f"{part}_conditions": {"image": images} for part in ("train", "test")}
    return Dataset(GREY, GREY, 256, **halves), Image((8, 8, channels), None, None, (8, 8, channels))


@pytest.mark.parametrize("operator", [Grey(), LowRes(2), Masked("left")], ids=str)
def test_images_made_of_data_are_those_that_users_would_give(operator):
    """In training, in sampling by the test data, and from a file, whatever the noise of levels."""
    conditions = Conditions((derived(operator),))
    x = SCALING.to_model(jax.random.key(1), jnp.asarray(GREY), dequantize=True)
    seen = conditions.complete({}, jax.random.key(0), x, 0)["images"]
    of_test = conditions.for_samples(np.arange(8), lambda: Dataset(GREY, GREY, 256))["images"]
    np.testing.assert_allclose(of_test[:6], seen, atol=1e-5)
    np.testing.assert_allclose(of_test[6:], seen[:2], atol=1e-5)
    measured = np.asarray(operator.measure(jnp.asarray(GREY, jnp.float32), jnp.zeros(6)))
    np.testing.assert_allclose(conditions.given(measured)["images"], seen, atol=1e-5)
    assert conditions.from_data(Dataset(GREY, GREY, 256), "train") == {}


@pytest.mark.thorough
def test_random_boxes_depend_on_the_key_and_the_sample_alone():
    conditions = Conditions((derived(Masked()),))
    x, key = jnp.asarray(SCALING.centres(GREY)), jax.random.key(3)
    seen = conditions.complete({}, key, x, 10)["images"]
    part = conditions.complete({}, key, x[2:4], 12)["images"]
    np.testing.assert_array_equal(part, seen[2:4])
    others = conditions.complete({}, jax.random.key(4), x, 10)["images"]
    assert (np.isnan(others) != np.isnan(seen)).any()


@pytest.mark.parametrize("images", [GREY[..., :2], FLOATS], ids=("grey levels", "floats"))
def test_images_of_the_data_are_scaled_by_the_training_set(images, tmp_path):
    dataset, member = paired(images)
    conditions = Conditions((member,)).claim(dataset, tmp_path)
    stored = conditions.from_data(dataset, "train")
    seen = conditions.complete(dict(stored), jax.random.key(0), jnp.zeros((6, 8, 8, 3)), 0)
    assert seen.keys() == {"images"}
    if images.dtype == np.uint8:
        np.testing.assert_allclose(seen["images"], images / 127.5 - 1, atol=1e-5)
    else:
        np.testing.assert_allclose(np.mean(seen["images"], (0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(np.std(seen["images"], (0, 1, 2)), 1, rtol=1e-5)
    again = Conditions((member,)).of_run(tmp_path)
    np.testing.assert_allclose(again.given(images)["images"], seen["images"], atol=1e-5)
    one = again.asked(None, None, images[2]).for_samples(np.arange(3), lambda: dataset)
    np.testing.assert_allclose(one["images"], np.tile(seen["images"][2], (3, 1, 1, 1)), atol=1e-5)
    of_test = again.for_samples(np.arange(7), lambda: dataset)["images"]
    np.testing.assert_allclose(of_test[:6], seen["images"], atol=1e-5)
    np.testing.assert_allclose(of_test[6], seen["images"][0], atol=1e-5)


def test_images_are_dropped_with_other_conditions_and_the_null_is_no_image():
    conditions = Conditions((derived(Grey()),), dropout=0.5)
    values = {"images": jnp.zeros((200, 8, 8, 1))}
    dropped = np.isnan(conditions.drop(jax.random.key(0), values, 0)["images"])
    assert (dropped.all((1, 2, 3)) == dropped.any((1, 2, 3))).all()
    assert dropped.mean() == pytest.approx(0.5, abs=0.15)
    assert np.isnan(conditions.unconditional(values)["images"]).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            GREY[:, :4, :, :1],
            r"of the shape \(6, 4, 8, 1\): it must be .* \(N, 8, 8, 1\)",
        ),
        (GREY[..., :1] * 1e3, "values from .*: they must be grey levels, 0 to 255"),
        (np.full((8, 8, 1), np.nan), "not finite: fill them in"),
    ],
    ids=("size", "range", "nan"),
)
def test_images_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValueError, match=f"the condition 'image' .*{message}"):
        derived(Grey()).given(values)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GREY, r"train data have the shape \(8, 8, 3\), and must have \(8, 8, 2\)"),
        (GREY[..., :2] > 9, "are bool: they must be uint8"),
        (FLOATS * [1, 0], "constant in channel 1"),
    ],
    ids=("size", "type", "constant"),
)
def test_images_of_the_data_that_do_not_fit_are_refused(images, message, tmp_path):
    dataset, member = paired(images)
    with pytest.raises(ValueError, match=message):
        Conditions((member,)).claim(dataset, tmp_path)
    with pytest.raises(ValueError, match="the data have no images beside the samples"):
        member.from_data(Dataset(GREY, GREY, 256), "train")


@pytest.mark.thorough
def test_an_exact_model_completes_the_unknown_half():
    """Columns are equal in pairs, left and right: given the left half, the right one is known."""
    config = digits.get_config("vp_score_sde")
    config.sampling.update(method="heun", n_steps=24)

    def score(x, t, images):
        sde = model.sde
        alpha, sigma = (fn(t)[:, None, None, None] for fn in (sde.alpha, sde.sigma))
        mean = jnp.concatenate([images[:, :, :4]] * 2, axis=2)
        return -(x - alpha * mean) / (alpha**2 * 0.01 + sigma**2)

    model = pipeline(config, score)
    member = derived(Masked("left"), (8, 8, 1), model.scaling)
    data = RANDOM.randint(0, 17, (5, 8, 8, 1)).astype(np.uint8)
    dataset = lambda: Dataset(data, data, 17)  # noqa: E731
    model = model.replace(conditions=Conditions((member,)), batch_size=8, dataset=dataset)
    expected = model.scaling.centres(np.concatenate([data[:, :, :4]] * 2, axis=2))
    np.testing.assert_allclose(model.sample(5), expected, atol=0.5)
    given = np.where(np.arange(8)[:, None] < 4, data[::-1], np.nan)
    drawn = model.sample(10, condition=given)
    np.testing.assert_allclose(drawn[:5], expected[::-1], atol=0.5)
    np.testing.assert_allclose(drawn[:5].mean(), drawn[5:].mean(), atol=0.02)
    exact = -32 * np.log(2 * np.pi * 0.01)
    np.testing.assert_allclose(model.log_likelihood(expected).log_prob, exact, atol=0.05)
    others = model.log_likelihood(expected, condition=given).log_prob
    assert max(others[0], others[4]) < exact - 100 < others[2]
    assert RAW_IMAGES not in model.conditions.from_data(dataset(), "test")
