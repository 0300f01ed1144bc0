import pytest

from configs import digits, points
from experiments.build import pipelines, tasks


def test_augmentations_and_flips_exclude_each_other():
    config = digits.get_config("vp_score_sde")
    config.data.augment, config.model.augment_dim, config.data.random_flip = 0.1, 9, True
    with pytest.raises(ValueError, match="flips images already"):
        tasks.task(config)


def test_samples_have_the_shape_of_the_data():
    assert pipelines.untrained(digits.get_config("vp_score_sde")).shape == (8, 8, 1)
    assert pipelines.untrained(points.get_config()).shape == (2,)
