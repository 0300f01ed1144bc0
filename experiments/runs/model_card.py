"""Model cards (Mitchell et al. 2019): what a checkpoint is, in Markdown beside it.

Checkpoints writes a card into a checkpoint's own folder, with which it goes. Its figures, which may
be measured later, are its last section.
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

import models
from configs import default
from experiments.data import data
from experiments.runs import hosts
from experiments.runs import workdir as workdirs
from experiments.training.checkpoint import CARD
from models.config import Config

LOG = logging.getLogger(__name__)
FIGURES = "## Figures"
NO_FIGURES = ("step", "grad_norm", "param_norm", "skipped")  # of metrics.jsonl
ALWAYS = ("model.name", "seed", "training.sde")  # of the config
DRAWN = "points in the plane, drawn by this program", "none: they are numbers"
SOURCES = {  # of data sets: what they are, and their licences
    "digits": (
        "scikit-learn's handwritten digits, the test set of UCI's Optical Recognition of "
        "Handwritten Digits (Alpaydin and Kaynak 1998)",
        "CC BY 4.0",
    ),
    "emoji": ("OpenMoji's pictures, rendered on white", "CC BY-SA 4.0"),
    "cifar10": ("CIFAR-10 (Krizhevsky 2009), photographs from the web", "not stated by its author"),
    **dict.fromkeys(("swiss_roll", "moons", "checkerboard", "mixture"), DRAWN),
}
Figures = dict[str, Sequence[str]]
"""Names; values, and the steps that they are of."""


class About(NamedTuple):
    """What a card tells beside config and data, as of a step.

    The device seconds are those of timed_steps of its steps.
    """

    step: int
    n_params: int
    devices: str
    timed_steps: int
    device_seconds: float
    figures: Figures


def describe(config: Config, workdir: Path, dataset: data.Dataset, n_params: int, step: int) -> str:
    """The card of a run's checkpoint, as Checkpoints asks for it while it trains."""
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    timed, figures = _time(config, workdir, step), _figures(workdir, step)
    return card(config, dataset, About(step, n_params, devices, *timed, figures))


def update(workdir: Path, step: int, measured: Mapping[str, str]) -> None:
    """Adds figures, by name, to the card of a checkpoint; nothing, where it has none."""
    path = workdir / "checkpoints" / str(step) / CARD
    if not hosts.is_first() or not path.exists():
        return
    above, _, table = path.read_text().partition(FIGURES)
    rows = [row.strip("| ").split(" | ") for row in table.strip().splitlines()[2:]]
    figures: Figures = {name: values for name, *values in rows}
    figures |= {name: (value, f"{step:,}") for name, value in measured.items()}
    try:
        workdirs.write_text(path, above + _figures_section(figures))
    except OSError as error:
        LOG.warning("%s stays without its new figures: %s", path, error)


def card(config: Config, dataset: data.Dataset, about: About) -> str:
    """The card's text."""
    kind = _kind(config)
    passes = about.step * config.training.batch_size / len(dataset.train)
    sections = {
        "Use": _use(config, kind, about),
        "Limits": _list(_limits(config, kind, passes)),
        "Data": _data(config, dataset),
        "Compute": _compute(config, about, passes),
        "Config": _config(config),
        "Licence": (
            "The program is under Apache-2.0. Nobody has stated a licence of these weights: who "
            "publishes them does, within what the licence of the data allows."
        ),
    }
    text = f"# {kind.capitalize()} of `{config.data.dataset}`, step {about.step:,}\n\n"
    text += "".join(f"## {name}\n\n{section}\n\n" for name, section in sections.items())
    return text + _figures_section(about.figures)


def _kind(config: Config) -> str:
    if models.is_discriminator(config):
        return "discriminator"
    if config.model.name == "autoencoder":
        return "autoencoder"
    return "classifier of noisy data" if models.is_classifier(config) else "diffusion model"


def _use(config: Config, kind: str, about: About) -> str:
    flag = {"discriminator": "sampling.discriminator", "autoencoder": "data.autoencoder"}
    purpose = {
        "discriminator": "to guide the model whose samples it knows, towards the data",
        "autoencoder": "to train diffusion models in its latents, and to decode these",
        "classifier of noisy data": "to guide a diffusion model of the same noise to a class",
        "diffusion model": "to draw samples like its data, to edit data and to score them",
    }
    option, file = f"config.{flag.get(kind, 'sampling.classifier')}=RUN", "of a diffusion model"
    if kind == "diffusion model":
        option, file = "workdir=RUN --mode=sample", "that it was trained by"
    return f"""\
It is made {purpose[kind]}, for research and teaching, and for no decision about people.

With RUN, the folder two above this file, and FILE, the config {file}:

    python -m experiments.main --config=FILE --{option}

Or in Python, the averaged weights of this very step:

    from pathlib import Path
    from experiments import state, workdir
    config = workdir.load_config(Path("RUN"))
    model, params, step = state.load(config, Path("RUN"), {about.step})"""


def _limits(config: Config, kind: str, passes: float) -> list[str]:
    side, images = config.data.image_size, models.encoder_name(config) != "mlp"
    size = f"images of {side} x {side} pixels" if images else "points in the plane"
    limits = [
        f"It knows {size} like those of `{config.data.dataset}`, and nothing else: what is rare or "
        "one-sided there is so here."
    ]
    if kind == "discriminator":
        return [*limits, "It knows the samples of one model: it is no detector of others' images."]
    if kind != "diffusion model":
        return [*limits, "It has an answer to any input, also to what is unlike its data."]
    limits += [
        f"It has seen each training sample {passes:,.3g} times on average and may have learned "
        "some by heart; nobody has looked for copies among its samples.",
        "There is no filter for safety: what the data hold, samples may hold.",
        "The pictures that this program saves say in their metadata that a model made them; copies "
        "need not. `--mode=detect` tells how well its samples can be recognised.",
    ]
    if config.model.low_res_size:
        small = f"{config.model.low_res_size} x {config.model.low_res_size}"
        limits.append(f"It makes images of {small} pixels larger, which another model has to draw.")
    if images and config.data.uniform_dequantization and not config.data.autoencoder:
        limits.append(
            "Its bits/dim are of data with uniform noise in each grey level, a bound from above on "
            "those of the levels, and of the averaged weights."
        )
    if config.model.class_conditional:
        limits.append(f"Of what to draw it understands a class of {config.data.num_classes} alone.")
    if config.model.text:
        limits.append("It understands prompts as far as they are like its data's captions.")
    if config.data.autoencoder:
        limits.append(
            f"It draws latents of the autoencoder in `{config.data.autoencoder}`, without which it "
            "is of no use, and nothing that this one cannot decode."
        )
    return limits


def _data(config: Config, dataset: data.Dataset) -> str:
    path, shape = config.data.path, dataset.train.shape[1:]
    unknown = f"the files in `{path}`" if path else "not known", "not known to this program"
    what, licence = SOURCES.get(config.data.dataset, unknown)
    unit = "points" if len(shape) == 1 else "images"
    unit = "latents of images" if config.data.autoencoder else unit
    levels = f", {dataset.levels} grey levels" if dataset.levels else ""
    numbers = f"{len(dataset.train):,} {unit} to train on, {len(dataset.test):,} to test on"
    rows = {
        "Source": what,
        "Licence": licence,
        "Numbers": f"{numbers}, each {' x '.join(map(str, shape))}{levels}",
        "Labels": f"{dataset.n_classes} classes" if dataset.n_classes else "none",
    }
    if config.model.text:
        rows["Texts"] = config.data.embeddings or "captions"
    if config.data.generated:
        rows["Of these"] = f"samples of a model in `{config.data.generated}`, of class 0"
    return _list(f"{name}: {value}" for name, value in rows.items())


def _compute(config: Config, about: About, passes: float) -> str:
    batch_size, seconds = config.training.batch_size, about.device_seconds
    took = f"{seconds:,.0f} device seconds ({seconds / 3600:,.3g} hours) in {about.timed_steps:,} "
    rows = {
        "Parameters": f"{about.n_params:,}",
        "Steps": f"{about.step:,} of {batch_size} samples",
        "Samples seen": f"{about.step * batch_size:,}, {passes:,.3g} times the training set",
        "Devices": f"{about.devices}, when this was written",
        "Time": f"{took}steps, without what is done between them (timing.jsonl)",
        "Arithmetic": "not counted: `--mode=plan` tells that of a step",
    }
    return _list(f"{name}: {value}" for name, value in rows.items())


def _config(config: Config) -> str:
    plain, ours = workdirs.fields(default.get_config()), workdirs.fields(config)
    rows = [
        (name, value, plain.get(name))
        for name, value in sorted(ours.items())
        if value != plain.get(name) or name in ALWAYS
    ]
    return "What differs from `configs/default.py`, and a few more:\n\n" + _table(
        ("field", "value", "default"),
        [(f"`{name}`", *(_value(value) for value in values)) for name, *values in rows],
    )


def _value(value: Any) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"


def _time(config: Config, workdir: Path, step: int) -> tuple[int, float]:
    """Steps that timing.jsonl has, over all resumptions, and their device seconds."""
    lines = _lines(workdir, "timing.jsonl", step)
    ends = [line["step"] for line in lines]
    starts = [max(0, end - config.training.log_freq) for end in ends[:1]] + ends[:-1]
    counts = [end - start for start, end in zip(starts, ends, strict=True)]
    seconds = [
        count * line["seconds"] * line.get("devices", jax.device_count())
        for count, line in zip(counts, lines, strict=True)
    ]
    return sum(counts), math.fsum(seconds)


def _figures(workdir: Path, step: int) -> Figures:
    """The last of each name in metrics.jsonl, up to a step."""
    found: Figures = {}
    for line in _lines(workdir, "metrics.jsonl", step):
        new = {name: value for name, value in line.items() if name not in NO_FIGURES}
        found |= {name: (f"{value:.4g}", f"{line['step']:,}") for name, value in new.items()}
    return found


def _lines(workdir: Path, name: str, step: int) -> list[dict[str, Any]]:
    return [line for line in workdirs.read_metrics(workdir, name) if line["step"] <= step]


def _figures_section(figures: Figures) -> str:
    rows = [(name, *values) for name, values in figures.items()]
    return f"{FIGURES}\n\n" + _table(("figure", "value", "step"), rows) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
