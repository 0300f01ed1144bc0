import jax
import numpy as np
import pytest
from closed_forms import Gaussian
from exact_models import not_a_number, pipeline
from sklearn import metrics

import sde_lib
from configs import digits
from experiments.evaluation.detect import detection
from samplers import Euler
from samplers.noise_levels import levels_at

GAUSSIAN, N_STEPS = Gaussian(mean=0.1, std=0.3), 5


@pytest.fixture(scope="module")
def model():
    config = digits.get_config("vp_score_sde")
    sde = pipeline(config).sde
    return pipeline(config, GAUSSIAN.score_fn(sde))


def lost(sde):
    """What a reconstruction takes off an image's distance from the mean, as a share of it."""
    low, high = levels_at(sde, [sde.t_min, sde.t_max])
    level = Euler(N_STEPS, denoise=False).levels(sde, high, low)
    slope, step = level / (level**2 + GAUSSIAN.std**2), level[:-1] - level[1:]
    return 1 - np.prod((1 + step * slope[1:]) * (1 - step * slope[:-1]))


@pytest.mark.thorough
def test_errors_are_what_the_steps_of_a_gaussian_s_flow_lose(model):
    """y - mean is multiplied in each step, up or down; the images are not what the model knows."""
    images = np.random.RandomState(0).randint(0, 17, (100, 8, 8, 1)).astype(np.uint8)
    errors = detection.reconstruction_errors(model, (images, {}), N_STEPS)
    mean = GAUSSIAN.mean * float(model.sde.alpha(model.sde.t_min))
    distance = np.sqrt(np.mean((images / 8.0 - 1 - mean) ** 2, axis=(1, 2, 3)))
    assert lost(model.sde) > 0.1
    np.testing.assert_allclose(errors, lost(model.sde) * distance, rtol=1e-3)


@pytest.mark.thorough
def test_data_of_the_model_s_own_distribution_cannot_be_told_apart(model):
    floats = model.replace(scaling=type(model.scaling)(None))
    keys = jax.random.split(jax.random.key(0))
    sets = [np.asarray(GAUSSIAN.sample(key, (300, 8, 8, 1))) for key in keys]
    errors = [detection.reconstruction_errors(floats, (x, {}), N_STEPS) for x in sets]
    found = detection.auc(*errors)
    assert abs(found.value - 0.5) < 3 * found.error < 0.1


def test_the_noise_loss_is_that_of_the_gaussian_in_closed_form(model):
    """With x_0 = mean, the noise is predicted to be z sigma^2 / (sigma^2 + alpha^2 std^2)."""
    sde, n = model.sde, 8
    x = np.full((200, 8, 8, 1), GAUSSIAN.mean, np.float32)
    floats = model.replace(scaling=type(model.scaling)(None))
    found = detection.noise_losses(floats, (x, {}), n)
    levels = np.geomspace(*levels_at(sde, [sde.train_t_min, sde.t_max]), n)
    errors = (1 / (1 + (levels / GAUSSIAN.std) ** 2)) ** 2
    assert found.mean() == pytest.approx(errors.mean(), rel=0.02)
    for name, weights in (("truncated_snr", np.maximum(1, levels**2)), ("x0", levels**2)):
        weighting = sde_lib.weighting.create(name)
        weighted = detection.noise_losses(floats, (x, {}), n, weighting=weighting)
        expected = np.average(errors, weights=weights)
        assert weighted.mean() == pytest.approx(expected, rel=0.02)


def test_the_classifier_knows_an_image_by_the_others():
    random = np.random.RandomState(0)
    real, samples = random.randn(40, 4, 4, 1), 0.3 * random.randn(30, 4, 4, 1)
    assert detection.auc(*detection.cross_validated(real, samples)).value > 0.95
    same = detection.auc(*detection.cross_validated(real, random.randn(30, 4, 4, 1)))
    assert abs(same.value - 0.5) < 3 * same.error


def test_reconstructions_that_are_not_finite_are_an_error():
    model = pipeline(digits.get_config("vp_score_sde"), not_a_number)
    with pytest.raises(FloatingPointError, match=r"take more steps \(config.detect.n_steps\)"):
        detection.reconstruction_errors(model, (np.zeros((2, 8, 8, 1), np.uint8), {}), 3)


def test_the_curve_and_its_area_by_hand():
    real, samples = np.array([3.0, 1.0]), np.array([2.0, 0.0])
    np.testing.assert_array_equal(
        detection.roc(real, samples), [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    )
    assert detection.auc(real, samples) == pytest.approx((0.75, np.sqrt(0.125)))
    assert detection.auc(samples, samples).value == 0.5


def test_ties_count_as_in_scikit_learn():
    random = np.random.RandomState(0)
    real, samples = random.randint(2, 12, 50) / 10, random.randint(0, 10, 70) / 10
    truth, score = np.repeat([0, 1], [50, 70]), -np.concatenate([real, samples])
    fpr, tpr, _ = metrics.roc_curve(truth, score, drop_intermediate=False)
    np.testing.assert_allclose(detection.roc(real, samples), np.transpose([fpr, tpr]))
    area = detection.auc(real, samples).value
    assert area == pytest.approx(metrics.roc_auc_score(truth, score))


def test_the_standard_error_is_that_of_repetitions():
    random = np.random.RandomState(0)
    found = [detection.auc(random.randn(40) + 1, random.randn(60)) for _ in range(1000)]
    values, errors = np.transpose(found)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.08)
