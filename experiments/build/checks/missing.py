"""Missing values: config.data.missing, and what does not go with it."""

from experiments.build.fields import sections
from models.config import Config
from sde_lib.checks import check_in, check_name

COMPLETE = {  # fields that need complete data, or make samples of several ones
    "data.autoencoder": "whose network takes complete images",
    "data.augment": "which moves values between pixels",
    "image_condition.name": "which makes images of complete ones",
    "model.low_res_size": "which needs means of pixels",
    "model.learned_variance": "which is learned by the variational bound of complete data",
    "eval.enable_bound": "which is of complete data",
}


def missing(config: Config) -> bool:
    """True if NaN and masks in the data mean missing values, of which a model is given the mask.

    Raises:
        ValueError: an unknown name, or another field that needs complete data.
    """
    data = config.data
    check_name("config.data.missing", data.missing, ("", "mask"))
    sections.check_needed(config, "data", "missing", ("hidden_fraction",))
    check_in("[0, 1]", **{"config.data.hidden_fraction": data.hidden_fraction})
    if not data.missing:
        return False
    for field, why in COMPLETE.items():
        value = sections.get(config, field)
        if value and value != "data":  # images that come with the data are complete
            raise ValueError(
                f"config.{field} is {value!r}, {why}: leave it out, or leave out "
                "config.data.missing"
            )
    _check_equal(config, "training.sde", "cld", False, "vpsde")
    _check_equal(config, "objective.name", "denoising", True, "denoising")
    _check_equal(config, "sampling.variance", "analytic", False, "posterior")
    return True


def _check_equal(config: Config, field: str, value: str, equal: bool, instead: str) -> None:
    """Raises ValueError for a field that has to be, or must not be, a value."""
    if ((given := sections.get(config, field)) == value) != equal:
        raise ValueError(
            f"config.{field} is {given!r}, which is for complete data: with "
            f"config.data.missing='mask' take {instead!r}, or leave config.data.missing out"
        )
