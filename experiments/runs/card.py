"""Model cards (Mitchell et al. 2019): a description of a checkpoint, in Markdown beside it.

Checkpoints writes a card into each checkpoint's folder, and the card moves with the folder. The
figures are its last section, because some are measured later.
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from experiments.runs import files, hosts
from experiments.runs import folder as folders

LOG = logging.getLogger(__name__)
CARD = "model_card.md"
FIGURES = "## Figures"
NO_FIGURES = ("step", "grad_norm", "param_norm", "skipped")  # of metrics.jsonl
Figures = dict[str, Sequence[str]]
"""Values and the steps that they belong to, by name."""


class Facts(NamedTuple):
    """The part of a card that is known when training starts.

    kind: such as "diffusion model". dataset: its name. purpose: completes "It is made ...". use:
    flags of the command that uses the model. limits: sentences; "{passes}" in them becomes how many
    times each sample was seen. data: rows of the section on data. config: (field, value, default)
    of the fields that differ from the defaults. n_params: parameters. batch_size: samples a step.
    n_train: training samples. log_freq: steps between lines of timing.jsonl. watts: power of a
    device, for an estimate of energy; None: no estimate.
    """

    kind: str
    dataset: str
    purpose: str
    use: str
    limits: list[str]
    data: dict[str, str]
    config: list[tuple[str, Any, Any]]
    n_params: int
    batch_size: int
    n_train: int
    log_freq: int
    watts: float | None = None


def describe(facts: Facts, folder: Path, step: int) -> str:
    """The card of a run's checkpoint, as Checkpoints asks for it during training."""
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    timed = _time(facts.log_freq, folder, step)
    return card(facts, step, devices, *timed, _figures(folder, step), folders.origin(folder))


def update(
    folder: Path, step: int, measured: Mapping[str, str], ema_length: float | None = None
) -> None:
    """Adds figures, by name, to the card of a checkpoint, if it has one.

    ema_length: of the average that was measured, if it is not the checkpoint's.
    """
    path = folder / "checkpoints" / str(step) / CARD
    if not hosts.is_first() or not path.exists() or not measured:
        return
    above, _, table = path.read_text(encoding="utf-8").partition(FIGURES)
    rows = [row.strip("| ").split(" | ") for row in table.strip().splitlines()[2:]]
    figures: Figures = {name: values for name, *values in rows}
    average = "" if ema_length is None else f" (EMA length {ema_length:g})"
    figures |= {name + average: (value, f"{step:,}") for name, value in measured.items()}
    try:
        files.write_text(path, above + _figures_section(figures))
    except OSError as error:
        LOG.warning("%s stays without its new figures: %s", path, error)


def card(
    facts: Facts,
    step: int,
    devices: str,
    timed_steps: int,
    device_seconds: float,
    figures: Figures,
    origin: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """The card's text.

    Args:
        facts: known when training starts.
        step: of the checkpoint.
        devices: their number and kind.
        timed_steps: steps whose times are known.
        device_seconds: seconds of these steps, over all devices.
        figures: for the last section.
        origin: of the first weights, from runs.folder.origin.
    """
    passes = step * facts.batch_size / facts.n_train
    limits = [limit.replace("{passes}", f"{passes:,.3g}") for limit in facts.limits]
    sections = {
        "Use": _use(facts, step),
        "Limits": _list(limits),
        "Data": _list(f"{name}: {value}" for name, value in (facts.data | _origin(origin)).items()),
        "Compute": _compute(facts, step, passes, devices, timed_steps, device_seconds),
        "Config": _config(facts.config),
        "Licence": _licence(origin),
    }
    text = f"# {facts.kind.capitalize()} of `{facts.dataset}`, step {step:,}\n\n"
    text += "".join(f"## {name}\n\n{section}\n\n" for name, section in sections.items())
    return text + _figures_section(figures)


def imported(record: Mapping[str, Any], n_params: int, config: list[tuple[str, Any, Any]]) -> str:
    """The card of a published model that became a run.

    Args:
        record: content of the run's published.json.
        n_params: its parameters.
        config: (field, value, default) of the fields that differ from the defaults.
    """
    licence = f"The weights are under the licence: {record['license']}."
    if not record["commercial"]:
        licence += " It forbids commercial use."
    rows = {
        "Published at": record["source"] or "not known to this program",
        "File": f"`{record['file']}`, {record['format']}",
        "Published figure": record["figure"] or "not known to this program",
        "Parameters": f"{n_params:,}",
    }
    assumed = [
        f"`{name}` = {_value(value)} is assumed: the file does not tell it."
        for name, value in record["assumed"].items()
    ]
    sections = {
        "Source": _list([*(f"{name}: {value}" for name, value in rows.items()), *assumed]),
        "Licence": licence,
        "Config": _config(config),
    }
    text = "".join(f"## {name}\n\n{section}\n\n" for name, section in sections.items())
    return f"# {record['model']}\n\n{text}"


def _use(facts: Facts, step: int) -> str:
    others = {"FILE": "the config", "MODEL": "the folder"}  # what it helps; it is no use alone
    helped = next((name for name in others if name in facts.use), "")
    lines = [
        f"It is made {facts.purpose}, for research and teaching, and for no decision about people.",
        "Give the folder that holds `checkpoints/` in place of RUN"
        + (f", and {others[helped]} of a diffusion model in place of {helped}:" if helped else ":"),
        f"    python -m experiments.main {facts.use}",
    ]
    if not helped:
        lines += [
            "Or in Python, with the averaged weights of this step:",
            f'    import experiments\n    model = experiments.load("RUN", step={step})',
        ]
    return "\n\n".join(lines)


def _compute(
    facts: Facts, step: int, passes: float, devices: str, timed_steps: int, seconds: float
) -> str:
    took = f"{seconds:,.0f} device seconds ({seconds / 3600:,.3g} hours) in {timed_steps:,} steps"
    rows = {
        "Parameters": f"{facts.n_params:,}",
        "Steps": f"{step:,} of {facts.batch_size} samples",
        "Samples seen": f"{step * facts.batch_size:,}, {passes:,.3g} times the training set",
        "Devices": f"{devices}, when this was written",
        "Time": f"{took}, without evaluations and pictures between them (timing.jsonl)",
        "Energy": _energy(seconds, facts.watts),
        "Arithmetic": "not counted: `--mode=plan` tells that of a step",
    }
    return _list(f"{name}: {value}" for name, value in rows.items())


def _energy(device_seconds: float, watts: float | None) -> str:
    """The energy of the timed steps, with the assumption that it rests on."""
    if watts is None:
        return "not estimated: `config.training.device_watts` gives the power of a device"
    return (
        f"{device_seconds * watts / 3.6e6:.3g} kWh, if each device draws {watts:g} W all that time "
        "(config.training.device_watts, not measured); the host, cooling, evaluations and "
        "earlier attempts are not in it"
    )


def _origin(origin: Mapping[str, Any]) -> dict[str, str]:
    """A row that names the run or the publication that the first weights are from."""
    at = f" at step {origin['step']:,}" if origin.get("step") else ""
    place = [f"`{origin['from']}`{at}"] if "from" in origin else []
    known = place + [str(origin[name]) for name in ("model", "source") if origin.get(name)]
    return {"First weights": f"those of {', '.join(known)}"} if known else {}


def _licence(origin: Mapping[str, Any]) -> str:
    """The licence of weights, which is that of the weights that they began with, if it is known."""
    program = "The program is under Apache-2.0. "
    if origin.get("license", "not stated") == "not stated":
        return program + (
            "Nobody has stated a licence of these weights: who publishes them does, within the "
            "licence of the data."
        )
    no_sale = "" if origin.get("commercial", True) else ": no commercial use"
    return program + (
        f"Training began with weights under the licence {origin['license']}{no_sale}. It holds for "
        "these weights too."
    )


def _config(fields: list[tuple[str, Any, Any]]) -> str:
    rows = [(f"`{name}`", _value(value), _value(plain)) for name, value, plain in fields]
    header = "The fields that differ from `configs/default.py`, and a few more:\n\n"
    return header + _table(("field", "value", "default"), rows)


def _value(value: Any) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"


def _time(log_freq: int, folder: Path, step: int) -> tuple[int, float]:
    """The steps that timing.jsonl covers, over all resumptions, and their device seconds."""
    lines = _lines(folder, "timing.jsonl", step)
    ends = [line["step"] for line in lines]
    starts = [max(0, end - log_freq) for end in ends[:1]] + ends[:-1]
    counts = [end - start for start, end in zip(starts, ends, strict=True)]
    seconds = [
        count * line["seconds"] * line.get("devices", jax.device_count())
        for count, line in zip(counts, lines, strict=True)
    ]
    return sum(counts), math.fsum(seconds)


def _figures(folder: Path, step: int) -> Figures:
    """The last value of each name in metrics.jsonl, up to a step."""
    found: Figures = {}
    for line in _lines(folder, "metrics.jsonl", step):
        new = {name: value for name, value in line.items() if name not in NO_FIGURES}
        found |= {name: (f"{value:.4g}", f"{line['step']:,}") for name, value in new.items()}
    return found


def _lines(folder: Path, name: str, step: int) -> list[dict[str, Any]]:
    return [line for line in files.read_lines(folder / name) if line["step"] <= step]


def _figures_section(figures: Figures) -> str:
    rows = [(name, *values) for name, values in figures.items()]
    return f"{FIGURES}\n\n" + _table(("figure", "value", "step"), rows) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
