"""The options of the study, and the methods that it compares."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.studies.subject import check_not_empty
from samplers import posterior
from samplers.posterior import PosteriorMethod
from sde_lib.checks import check_at_least, check_in, check_name

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "dps": ({"step_size": 0.1}, {"step_size": 1.0}, {"step_size": None}),
    "twisted_smc": ({"n_particles": 16}, {"n_particles": 64}),
}
"""Options of the methods that are compared with more than one; the others have their defaults."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the study, config.study.posterior.

    Attributes:
        methods: names in samplers.posterior.METHODS.
        solvers: names of solvers.
        nfe: network evaluations a sample, before derivatives and particles.
        dims: dimensions of the mixtures.
        n_measurements: measurements that are averaged over.
        n_samples: samples for each of them.
        noise_std: standard deviation of the measurements' noise.
        operators: names in images.OPERATORS; () for left_half, and half_size of even sides.

    Raises:
        ValueError: an unknown method, an impossible number, or nothing to compare.
    """

    methods: tuple[str, ...]
    solvers: tuple[str, ...]
    nfe: tuple[int, ...]
    dims: tuple[int, ...]
    n_measurements: int
    n_samples: int
    noise_std: float
    operators: tuple[str, ...] = ()

    def __post_init__(self):
        check_not_empty(
            "study.posterior",
            **{name: getattr(self, name) for name in ("methods", "solvers", "nfe", "dims")},
        )
        section = "config.study.posterior"
        for name in self.methods:
            check_name(f"{section}.methods", name, posterior.METHODS)
        for dims in self.dims:
            check_at_least(2, **{f"{section}.dims": dims})
        check_at_least(1, **{f"{section}.n_measurements": self.n_measurements})
        check_at_least(3, **{f"{section}.n_samples": self.n_samples})
        check_in("(0, inf)", **{f"{section}.noise_std": self.noise_std})


def variants(names: Sequence[str], data_std: float) -> Iterator[tuple[str, PosteriorMethod]]:
    """The methods to compare, with a label of each, for data of a standard deviation."""
    for name in names:
        own = {field.name for field in dataclasses.fields(posterior.METHODS[name])}
        known = {"data_std": data_std} if "data_std" in own else {}
        for options in VARIANTS.get(name, ({},)):
            about = ", ".join(f"{option}={value}" for option, value in options.items())
            label = f"{name} ({about})" if about else name
            yield label, posterior.create(name, **known, **options)


def noise_for(method: PosteriorMethod, noise_std: float) -> float:
    """The noise that a method is given: replacement takes every measurement for exact."""
    return 0.0 if isinstance(method, posterior.Replacement) else noise_std
