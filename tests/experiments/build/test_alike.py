from pathlib import Path

import pytest

from configs import digits
from experiments.build import alike


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training.sde": "subvpsde"},
            r"SDE of the classifier in there is SubVP.*, here VP.*: set config.x to .* same SDE",
        ),
        ({"data.image_size": 4}, r"the shape of data of the classifier in there is \(4, 4, 1\)"),
        ({"data.centered": False}, r"range of data .* is \(0.0, 1.0\), here \(-1.0, 1.0\)"),
        ({}, None),
    ],
    ids=str,
)
def test_models_of_other_noise_or_data_are_refused(changes, message):
    ours, theirs = digits.get_config(), digits.get_config()
    theirs.update_from_flattened_dict(changes)
    if message is None:
        alike.check_noise(ours, theirs, "there", "classifier", "config.x")  # pyright: ignore
        return
    with pytest.raises(ValueError, match=message):
        alike.check_noise(ours, theirs, "there", "classifier", "config.x")  # pyright: ignore


def test_the_error_says_none_for_an_aspect_that_one_model_lacks():
    ours, theirs = digits.get_config(), digits.get_config()
    theirs.data.autoencoder = "elsewhere"
    with pytest.raises(ValueError, match=r"guide in there is elsewhere, here none: set config.x"):
        alike.check_equal(ours, theirs, Path("there"), "guide", "config.x", ["autoencoder"])
