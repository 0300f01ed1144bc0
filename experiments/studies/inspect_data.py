"""Mode inspect: a data card, measures of the data, and the noise that they advise."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.build import data, reports
from experiments.build.fields import configs
from experiments.build.inspection import advice
from experiments.commands.request import Request
from experiments.data.inspection.measure import Measures
from experiments.runs import files, progress
from experiments.runs import folder as folders

COLUMNS = ("quantity", "measured", "config", "advice", "reason")
RECORD = "inspect.json"
CARD = "data_card.md"


def run(request: Request) -> None:
    """Prints the data card and the table; writes both to the run's folder if there is a run.

    Raises:
        ValueError: the folder holds a run of another config, or all samples are equal.
    """
    config, folder = request.config, request.folder
    configs.check_same(config, folder, configs.USE)
    with progress.working("loading data"):
        found = data.images(config)
    measures = advice.measured(config, found)
    rows = advice.table(config, measures)
    facts = reports.data_facts(config, found)
    card = [f"{name}: {text}" for name, text in facts.items()]
    for line in (*card, "", *_about(measures), "", *_lines(rows)):
        print(line)
    if folders.has_run(folder):
        text = "\n".join(f"- {line}" for line in card)
        files.write_text(folder / CARD, f"# Data `{config.data.dataset}`\n\n{text}\n")
        about = {"measures": dataclasses.asdict(measures), "facts": facts, "advice": rows}
        files.write_json(folder / RECORD, about)
        print(folder / CARD)
        print(folder / RECORD)


def _about(found: Measures) -> Iterator[str]:
    """Measured figures that no advice follows from."""
    shape = " x ".join(map(str, found.shape))
    yield f"{found.total:,} training samples of the shape {shape}; {found.n:,} are measured"
    stds = [f"{std:.3g}" for std in found.channel_stds]
    shown = ", ".join(stds[:8]) + " ..." * (len(stds) > 8)
    yield f"standard deviation of each channel: {shown}"
    yield f"copies: {found.copies:,} of {found.compared:,} samples repeat another one"
    yield f"smallest distance of two that are no copies: {found.smallest:.3g}"
    if found.spectrum:
        (low, *_, high), (first, *_, last) = found.spectrum.frequency, found.spectrum.power
        yield (
            f"power spectrum: {first:.3g} at {low:.3g} to {last:.3g} at {high:.3g} cycles a grid "
            f"step, slope {found.spectrum.slope:.2f}; noise of std s has the power s^2"
        )


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows in columns, under their titles."""
    shown = [COLUMNS, *([_text(row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]


def _text(value: Any) -> str:
    return "-" if value is None else str(value)
