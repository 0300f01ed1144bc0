"""Registry of the forms of guidance: how a guided score follows from the two that it compares.

A form is a frozen dataclass, called as form(sde, x, t, weight, own, guided). `own` is the
unguided (conditional) score, `guided` that of plain guidance, and the weight broadcasts to x. A new
one is a file and a line here.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Array

from samplers.guidance.projection import Projected
from samplers.guidance.rescale import Rescale
from sde_lib import SDE
from sde_lib.batch import Batch, PerSample

Form = Callable[[SDE, Batch, PerSample, Array, Batch, Batch], Batch]


@dataclasses.dataclass(frozen=True)
class Linear:
    """Plain guidance: a score on the line through the two."""

    def __call__(
        self, sde: SDE, x: Batch, t: PerSample, weight: Array, own: Batch, guided: Batch
    ) -> Batch:
        """The guided score as it is."""
        return guided


def bound(form: Form, sde: SDE) -> Callable[..., Batch] | None:
    """The form with its SDE, as classifier_free and autoguidance take it; None for Linear."""
    return None if isinstance(form, Linear) else partial(form, sde)


FORMS: dict[str, Any] = {"linear": Linear, "rescale": Rescale, "projected": Projected}
