"""The results of an ablation study: its table, its verdicts, and the curves of its pictures."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special

from experiments.runs import charts
from experiments.studies.statistics import Mean

EDM, SCALED, SLOPED, GUIDED, BOTH = "EDM", "EDM-ES", "EDM-ES-k", "EDM-G++", "SEDM-G++"
SHIFTED, PERTURBED = "EDM-TS", "EDM-IP"
CLAIMS = ((SCALED, EDM), (GUIDED, EDM), (BOTH, SCALED), (BOTH, GUIDED))
"""Pairs of arms of which the first should be the better."""
FURTHER = ((SLOPED, SCALED), (SHIFTED, EDM), (PERTURBED, EDM))
"""Likewise, of arms that are there if they are asked for."""


class Run(NamedTuple):
    """A set of samples; role: "choose" or "report".

    Noise is divided by b + step_slope i + slope t, with i the number of the step. window and cutoff
    are those of the time shift.
    """

    solver: str
    nfe: int
    arm: str
    w: float
    b: float
    role: str
    seed: int
    frechet: float
    kernel: float
    kernel_error: float
    step_slope: float = 0.0
    slope: float = 0.0
    n_samples: int = 0
    window: float = 0.0
    cutoff: float = 0.0


RARE = {
    "step_slope": "slope in steps",
    "slope": "slope in t",
    "window": "window",
    "cutoff": "cutoff",
}
CHOSEN = {"w": "w", "b": "b"} | RARE
"""Fields of a Run that arms choose, and their names; those of RARE only in some arms."""


def reported(runs: Sequence[Run]) -> dict[tuple[str, int], dict[str, list[Run]]]:
    """The reported runs, one for each seed, by solver and NFE, then by arm."""
    cells: dict[tuple[str, int], dict[str, list[Run]]] = {}
    for run in runs:
        if run.role == "report":
            cells.setdefault((run.solver, run.nfe), {}).setdefault(run.arm, []).append(run)
    return cells


def difference(arms: dict[str, list[Run]], arm: str, other: str) -> Mean:
    """The distance of an arm less that of another, from the same noise."""
    pairs = zip(arms[arm], arms[other], strict=True)
    return Mean.of([run.frechet - theirs.frechet for run, theirs in pairs])


def table(runs: Sequence[Run]) -> Iterator[str]:
    """A header, and a line for each solver, NFE and arm: means, and the distance of every seed.

    Numbers of RARE have a column if an arm chose one.
    """
    names = ("Fréchet distance", "less EDM's", "kernel distance")
    slopes = {
        name: f"{title:>16}"
        for name, title in RARE.items()
        if any(getattr(run, name) for run in runs)
    }
    yield (
        f"{'solver':<8}{'NFE':>4}  {'arm':<9}{'w':>6}{'b':>8}"
        + "".join(slopes.values())
        + "".join(f"{name:>24}" for name in names)
        + f"{'least':>10}  Fréchet distance of each seed"
    )
    for (solver, nfe), arms in reported(runs).items():
        for arm, sets in arms.items():
            frechet, kernel = (
                Mean.of([getattr(run, name) for run in sets]) for name in ("frechet", "kernel")
            )
            less = "-" if arm == EDM else difference(arms, arm, EDM)
            least = min(run.frechet for run in sets)
            yield (
                f"{solver:<8}{nfe:>4}  {arm:<9}{sets[0].w:>6g}{sets[0].b:>8g}"
                + "".join(f"{getattr(sets[0], name):>16g}" for name in slopes)
                + "".join(f"  {figure!s:>22}" for figure in (frechet, less, kernel))
                + f"{least:>10.4g}  "
                + " ".join(f"{run.frechet:.4g}" for run in sets)
            )


def verdicts(runs: Sequence[Run]) -> Iterator[str]:
    """For each solver and NFE the arms in order, and whether the method's claims hold."""
    n_seeds = 0
    for (solver, nfe), arms in reported(runs).items():
        n_seeds = len(arms[EDM])
        means = {arm: np.mean([run.frechet for run in sets]) for arm, sets in arms.items()}
        ordering = " < ".join(
            f"{arm} {means[arm]:.4g}" for arm in sorted(arms, key=lambda arm: means[arm])
        )
        yield f"{solver} {nfe}: {ordering}"
        for arm, other in (*CLAIMS, *FURTHER):
            if arm in arms:
                less = difference(arms, arm, other)
                certain = abs(less.value) > scipy.special.stdtrit(n_seeds - 1, 0.975) * less.error
                verdict = ("better" if less.value < 0 else "worse") if certain else "cannot be told"
                yield f"  {arm} less {other}: {less}, {verdict}"
    yield f"(better or worse: by a paired t test of {n_seeds} seeds at 5%, each pair by itself)"


def open_ends(runs: Sequence[Run]) -> Iterator[str]:
    """A line for each arm that chose the first or last of several values: beyond may be better."""
    for run, *_ in (sets for arms in reported(runs).values() for sets in arms.values()):
        tried = [other for other in runs if other[:3] == run[:3] and other.role == "choose"]
        for name, title in CHOSEN.items():
            values = {getattr(other, name) for other in tried}
            for end, beyond in ((max(values), "larger"), (min(values), "smaller")):
                if len(values) > 1 and getattr(run, name) == end:
                    yield f"{run.solver} {run.nfe}: {run.arm} may be better with a {beyond} {title}"


def arm_panels(runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
    """The distance of every seed, by solver and NFE, and by arm."""
    return {
        f"{solver}, NFE {nfe}": {arm: [run.frechet for run in sets] for arm, sets in arms.items()}
        for (solver, nfe), arms in reported(runs).items()
    }


def grid_panels(runs: Sequence[Run]) -> dict[str, charts.Grid]:
    """By solver and NFE: the distances of all tried b for each w, and the choice of each arm."""
    panels: dict[str, charts.Grid] = {}
    for run in runs:
        if run.role == "choose":
            curves, chosen = panels.setdefault(f"{run.solver}, NFE {run.nfe}", charts.Grid({}, {}))
            point, curve = (run.b, run.frechet), f"w = {run.w:g}"
            for name, title in RARE.items():
                value = getattr(run, name)
                curve += f", {title} {value:g}" if value else ""
            curves.setdefault(curve, []).append(point)
            chosen[run.arm] = min(chosen.get(run.arm, point), point, key=lambda point: point[1])
    return panels
