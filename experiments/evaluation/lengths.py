"""Comparison of a model's averages of several lengths: a table, the best of each figure, a chart.

As in Karras et al. 2024, Figure 5: which length is best depends on the model, and on the metric.
"""

from collections.abc import Mapping
from pathlib import Path

from experiments.evaluation.figure import Figure, Figures
from experiments.runs import charts, files

LOWER = ("loss", "bits/dim", "distance", "fid", "kid")
"""Parts of the names of figures that are better the lower they are."""
HIGHER = ("log-likelihood", "precision", "recall", "coverage", "inception_score")


def report(found: Mapping[float, Figures], stem: Path, about: dict[str, str]) -> list[str]:
    """Writes the figures by length as STEM.csv and STEM.png.

    Args:
        found: the figures of each length.
        stem: of the files.
        about: the picture's metadata.

    Returns:
        The lines to print: the table, the best length of each figure, the paths.
    """
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    shown = [name for name in names if sign(name)]
    rows = [
        [length, *(_cell(figures.get(name), what) for name in names for what in ("value", "error"))]
        for length, figures in found.items()
    ]
    header = ["ema_length", *(f"{name}{what}" for name in names for what in ("", " error"))]
    lines = table(found, shown)
    lines += [f"best {name}: {best(found, name)}" for name in shown]
    lines.append(str(files.write_table(stem.with_suffix(".csv"), header, rows)))
    panels = {name: _points(found, name) for name in shown}
    if panels:
        lines.append(str(charts.save_by_length(stem.with_suffix(".png"), panels, about)))
    return lines


def sign(name: str) -> int:
    """1 for a figure that is better the higher it is, -1 the lower, 0 for others."""
    if "error by" in name:
        return 0
    if any(part in name for part in HIGHER):
        return 1
    return -1 if any(part in name for part in LOWER) else 0


def best(found: Mapping[float, Figures], name: str) -> str:
    """The length with the best value of a figure, and those whose value is within its error."""
    values = {length: figures[name] for length, figures in found.items() if name in figures}
    first = max(values, key=lambda length: sign(name) * values[length].value)
    top = values[first]
    near = [
        f"{length:g}"
        for length, figure in values.items()
        if length != first and abs(figure.value - top.value) <= (top.error or 0)
    ]
    return f"length {first:g}" + (f" (within one error: {', '.join(near)})" if near else "")


def table(found: Mapping[float, Figures], names: list[str]) -> list[str]:
    """Lines of a table with a row for each length and a column for each of these figures."""
    rows = [["EMA length", *names]]
    for length, figures in found.items():
        plain = (figures.get(name) for name in names)
        texts = ("-" if f is None else str(Figure(f.value, f.error)) for f in plain)
        rows.append([f"{length:g}", *texts])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _points(found: Mapping[float, Figures], name: str) -> list[tuple[float, float, float]]:
    """(length, value, error) in the order of the lengths."""
    values = {length: figures[name] for length, figures in found.items() if name in figures}
    return [(length, values[length].value, values[length].error or 0) for length in sorted(values)]


def _cell(figure: Figure | None, what: str) -> float | str:
    value = None if figure is None else getattr(figure, what)
    return "" if value is None else value
