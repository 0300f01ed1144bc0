"""A measured number, with its error and what it was measured with."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measured number.

    Attributes:
        value: the number.
        error: its standard error; None if it has none.
        about: what else belongs to it, such as the number of samples.
    """

    value: float
    error: float | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        digits = ".3f" if abs(self.value) >= 0.1 else ".2g"
        error = "" if self.error is None else f" +- {self.error:{digits}}"
        about = ", ".join(f"{name} {value}" for name, value in self.about.items())
        return f"{self.value:{digits}}{error}" + (f" ({about})" if about else "")


Figures = dict[str, Figure]
