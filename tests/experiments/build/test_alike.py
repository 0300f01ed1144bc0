import pytest

from configs import digits
from experiments.build import alike


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.sde": "subvpsde"}, "the SDE of the classifier in there is SubVP"),
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
        alike.check_noise(ours, theirs, "there", "classifier")  # pyright: ignore
        return
    with pytest.raises(ValueError, match=message):
        alike.check_noise(ours, theirs, "there", "classifier")  # pyright: ignore
