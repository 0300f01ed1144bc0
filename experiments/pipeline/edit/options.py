"""The options of an edit."""

import dataclasses
from typing import Any

from experiments.pipeline.edit.masks import check_known
from experiments.pipeline.edit.tasks import POSTERIOR, TASKS
from samplers import posterior
from samplers.posterior import PosteriorMethod
from sde_lib.checks import check_at_least, check_in, check_name, check_positive, check_types

CONTENTS = ("fill", "original", "noise")
FIELD = "config.edit."


@dataclasses.dataclass(frozen=True)
class Edit:
    """An edit and its options. Each task takes some of them (tasks.TASKS).

    Attributes:
        task: a name in TASKS.
        n_results: results for each image, or between two of them.
        mask: of "inpaint": a name in masks.MASKS, or an image file, white where results are made.
        mask_grow: pixels by which the part that is made grows.
        mask_blur: standard deviation, in pixels, of the edge where results pass into the image.
        content: start of the part that is made, for a strength below 1: "fill" (colours from
            around it), "original" or "noise".
        only_masked: edits the part of an image around the mask alone, at the model's resolution.
        padding: pixels of the image around the mask, in that part.
        extend: of "outpaint": pixels at the (top, right, bottom, left); (): half of the model's
            width at the left and at the right.
        overlap: of "outpaint": the share of a window that the next one covers too.
        factor: of "super_resolution": how many times longer the sides become.
        blur: of "deblur": standard deviation of the blur, in pixels.
        degrade: the images are blurred, or made smaller, first; False: they are so already. None:
            True for images that have the model's size at least, in "super_resolution".
        noise_std: standard deviation of the noise of what is given, in model space.
        strength: the share of the sampler's steps that are made: 0 changes nothing, 1 everything.
            None: 0.3 in "variations", 1 otherwise.
        noise_level: sigma / alpha of the start, in place of a strength.
        posterior: the method for samples given a measurement, a name in samplers.posterior.METHODS.
        n_iterations: of conjugate gradients, an option of "moment_matching" and "pigdm"; None: 1 in
            "impute", where more make a rough network worse (docs/howto/missing_values.md), and the
            method's own.
        step_size, data_std, n_particles, resample_below: options of the methods; None: their own.
        first_result: number of the first result of one image, for results that are made in parts.

    Raises:
        ValueError: an unknown name, an impossible number, or a strength beside a noise level.
    """

    task: str = "inpaint"
    n_results: int = 6
    mask: str = "left"
    mask_grow: int = 0
    mask_blur: float = 0.0
    content: str = "fill"
    only_masked: bool = False
    padding: int = 8
    extend: tuple[int, ...] = ()
    overlap: float = 0.5
    factor: int = 2
    blur: float = 1.0
    degrade: bool | None = None
    noise_std: float = 0.0
    strength: float | None = None
    noise_level: float | None = None
    posterior: str = "moment_matching"
    n_iterations: int | None = None
    step_size: float | None = None
    data_std: float | None = None
    n_particles: int | None = None
    resample_below: float | None = None
    first_result: int = dataclasses.field(default=0, repr=False, compare=False)  # no program has it

    def __post_init__(self):
        check_types(self, FIELD)
        check_name("config.edit.task", self.task, TASKS)
        check_known(self.mask)
        check_name("config.edit.content", self.content, CONTENTS)
        check_at_least(1, **{"config.edit.n_results": self.n_results})
        if self.n_iterations is not None:
            check_at_least(1, **{"config.edit.n_iterations": self.n_iterations})
        check_name("config.edit.posterior", self.posterior, posterior.METHODS)
        lengths = {"mask_grow": self.mask_grow, "padding": self.padding}
        check_at_least(0, **{FIELD + name: count for name, count in lengths.items()})
        check_at_least(2, **{"config.edit.factor": self.factor})
        sizes = {"mask_blur": self.mask_blur, "noise_std": self.noise_std}
        check_positive(True, **{FIELD + name: size for name, size in sizes.items()})
        check_positive(**{"config.edit.blur": self.blur})
        check_in("[0, 1)", **{"config.edit.overlap": self.overlap})
        check_in("(0, inf)", True, **{"config.edit.noise_level": self.noise_level})
        object.__setattr__(self, "extend", tuple(self.extend))
        if self.extend and (
            len(self.extend) != 4
            or not all(type(n) is int and n >= 0 for n in self.extend)
            or not any(self.extend)
        ):
            raise ValueError(
                f"config.edit.extend is {self.extend}: give four numbers of pixels, at the (top, "
                "right, bottom, left), not all of them 0"
            )
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise ValueError(f"config.edit.strength is {self.strength}: it must lie in [0, 1]")
        if self.strength is not None and self.noise_level is not None:
            raise ValueError(
                f"config.edit.strength is {self.strength} and config.edit.noise_level "
                f"{self.noise_level}: both say where the sampler starts; leave one of them out"
            )
        if self.method.needs_noise and not self.noise_std:
            raise ValueError(
                f"config.edit.noise_std is 0, and config.edit.posterior = {self.posterior!r} "
                "divides by it: give the standard deviation of the noise of what is given, or take "
                "'moment_matching'"
            )

    @property
    def method(self) -> PosteriorMethod:
        """The posterior sampler.

        Raises:
            ValueError: an unknown name, an option that it does not have, or an impossible number.
        """
        given = {name: getattr(self, name) for name in POSTERIOR}
        given = {name: value for name, value in given.items() if value is not None}
        if (self.task, self.posterior) == ("impute", "moment_matching"):
            given = {"n_iterations": 1} | given
        return posterior.create(self.posterior, **given)

    @property
    def share(self) -> float:
        """The share of the sampler's steps, without a noise level."""
        if self.strength is not None:
            return self.strength
        return 0.3 if self.task == "variations" else 1.0


def create(task: str, **options: Any) -> Edit:
    """An edit of options by name; those of other tasks are refused.

    Raises:
        ValueError: an unknown task, or an option that it does not have.
    """
    check_name("config.edit.task", task, TASKS)
    for name in options:
        check_name(f"option of the edit {task!r}", name, TASKS[task].options)
    return Edit(task, **options)
