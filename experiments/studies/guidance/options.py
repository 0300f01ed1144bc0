"""The options of the study of guidance."""

import dataclasses

from experiments.studies.subject import check_not_empty
from samplers.guidance_schedules import SCHEDULES
from sde_lib.checks import check_at_least, check_name, check_positive

SECTION = "config.study.guidance"


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the study, config.study.guidance.

    Attributes:
        weights: guidance scales; 1 is the conditional score.
        schedules: names in samplers.guidance.SCHEDULES; of a trained model alone.
        solvers: names of solvers.
        nfe: network evaluations a sample, a guided score counting as one.
        n_samples: in a set.
        n_seeds: sets of each setting, from the same noise in all settings.
        classifier: the run of a classifier that judges the samples; "" for none.
        negatives: prompts, or numbers of classes, to guide away from, one at a time; of a trained
            model alone.

    Raises:
        ValueError: an unknown schedule, an impossible number, or nothing to compare.
    """

    weights: tuple[float, ...]
    schedules: tuple[str, ...]
    solvers: tuple[str, ...]
    nfe: tuple[int, ...]
    n_samples: int
    n_seeds: int
    classifier: str = ""
    negatives: tuple[str | int, ...] = ()

    def __post_init__(self):
        names = ("weights", "schedules", "solvers", "nfe")
        check_not_empty("study.guidance", **{name: getattr(self, name) for name in names})
        for weight in self.weights:
            check_positive(or_zero=True, **{f"{SECTION}.weights": weight})
        for name in self.schedules:
            check_name(f"{SECTION}.schedules", name, SCHEDULES)
        check_at_least(2, **{f"{SECTION}.n_samples": self.n_samples})
        check_at_least(2, **{f"{SECTION}.n_seeds": self.n_seeds})
