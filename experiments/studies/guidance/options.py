"""The options of the study of guidance."""

import dataclasses

from experiments.studies.subject import check_not_empty
from samplers.guidance_schedules import REQUIRED, SCHEDULES, Schedule
from sde_lib.checks import check_at_least, check_name, check_positive

SECTION = "config.study.guidance"


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the study, config.study.guidance.

    Attributes:
        weights: guidance scales; 1 is the conditional score.
        schedules: names in samplers.guidance.SCHEDULES; of a trained model alone.
        intervals: pairs (low, high) of noise levels between which alone a schedule guides, or
            triples (low, high, True) outside of which alone it does; of a trained model alone. ():
            that of config.guidance.schedule, if it has one.
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
    intervals: tuple[tuple, ...] = ()

    def __post_init__(self):
        names = ("weights", "schedules", "solvers", "nfe")
        check_not_empty("study.guidance", **{name: getattr(self, name) for name in names})
        for weight in self.weights:
            check_positive(or_zero=True, **{f"{SECTION}.weights": weight})
        for name in self.schedules:
            check_name(f"{SECTION}.schedules", name, SCHEDULES)
        for interval in self.intervals:
            ends = interval[:2] if isinstance(interval, (tuple, list)) else ()
            numbers = [type(end) in (int, float) for end in ends]
            if numbers != [True, True] or [*interval[2:]] not in ([], [False], [True]):
                raise ValueError(
                    f"{SECTION}.intervals has {interval!r}: give pairs of noise levels, as in "
                    "((0.2, 5.0),), or triples with True where the interval is removed"
                )
        check_at_least(2, **{f"{SECTION}.n_samples": self.n_samples})
        check_at_least(2, **{f"{SECTION}.n_seeds": self.n_seeds})

    def compared(self, schedule: Schedule) -> dict[str, Schedule]:
        """Each of the schedules in each of the intervals, by a label.

        They have the options of `schedule`. An option that another one of them requires, such as
        the interval of "interval", is that one's alone.
        """
        found: dict[str, Schedule] = {}
        for name in self.schedules:
            others = {option for each in self.schedules for option in REQUIRED.get(each, ())}
            others -= set(REQUIRED.get(name, ()))
            others |= {"removed"} if "low" in others else set()
            own = {option: value for option, value in schedule.options if option not in others}
            if not self.intervals:
                found[name] = Schedule(name, tuple(sorted(own.items())))
            for low, high, *removed in self.intervals:
                outside = removed == [True]
                own |= {"low": low, "high": high, "removed": outside}
                label = f"{name} {'outside' if outside else 'in'} {low:g} to {high:g}"
                found[label] = Schedule(name, tuple(sorted(own.items())))
        return found
