"""How fast it is: ratios of times taken in turns in one process, without what XLA compiles.

    python -m experiments.benchmark --preset=cpu|gpu [--output=benchmark.json] [--only=train,data]

| figure     | the ratio of                                   | to                            |
| ---------- | ---------------------------------------------- | ----------------------------- |
| start      | seconds from the command to the first training | those of the first time:      |
|            | step, and picture, when it is run again        | programs are compiled by then |
| memory     | bytes of a training step, a batch of samples   | those of the state, weights   |
| train      | the trainer: data, logging, EMA, checkpoints   | bare compiled gradient steps  |
| data       | batches a second of the pipeline               | those of bare gradient steps  |
| sample     | samples by each sampler                        | NFE bare calls of the network |
| guidance   | guided samples                                 | bare calls of the networks    |
| likelihood | log-likelihoods                                | NFE bare jvps of the score    |
| network    | FLOP/s of a call, and of a gradient step       | the machine's peak            |
| profile    | time in convolutions and matrix products       | that in all operations        |

The weights are untrained: what is measured does not depend on them, but for the NFE of adaptive
solvers. The preset gpu takes random images in the place of CIFAR-10.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import absl.logging
import jax

from experiments.benchmark import likelihood, memory, network, profile, sampling, start, training
from experiments.benchmark.measure import Figure
from experiments.benchmark.presets import PRESETS, Preset

FIGURES: dict[str, Callable[[Preset, int], Iterator[Figure]]] = {
    "start": start.figures,  # first: its commands need the device's memory
    "memory": memory.figures,  # then: a device tells its peak since the start
    "train": training.train_figures,
    "data": training.data_figures,
    "sample": sampling.figures,
    "guidance": sampling.guidance_figures,
    "likelihood": likelihood.figures,
    "network": network.figures,
    "profile": profile.figures,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is asked for, prints the table and writes the file."""
    options = parse(arguments)
    absl.logging.set_verbosity(absl.logging.ERROR)  # orbax would tell every step it takes
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        preset = PRESETS[options.preset].with_data(Path(folder))
        for kind in options.only:
            print(f"{kind}:", file=sys.stderr, flush=True)
            for figure in FIGURES[kind](preset, options.repeats):
                print("  " + "  ".join(cells(figure)), file=sys.stderr, flush=True)
                found.append(figure)
    report = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        "preset": options.preset,
        "figures": [figure._asdict() for figure in found],
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print("\n".join(table(found)))
    print(options.output)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags; a wrong one ends the process with what would be right."""
    parser = argparse.ArgumentParser("python -m experiments.benchmark", allow_abbrev=False)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"))
    parser.add_argument("--only", default=",".join(FIGURES), help="figures, with commas")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, of which medians are taken")
    options = parser.parse_args(arguments)
    asked = options.only.split(",")
    if unknown := set(asked) - set(FIGURES):
        parser.error(f"--only: no {', '.join(sorted(unknown))}: choose of {', '.join(FIGURES)}")
    options.only = [kind for kind in FIGURES if kind in asked]
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}: it must be at least 1")
    if not options.output.absolute().parent.is_dir():
        parser.error(f"--output: there is no folder {options.output.parent}")
    return options


def table(figures: Sequence[Figure]) -> Iterator[str]:
    """In Markdown, aligned."""
    header = ("figure", "of", "what", "ratio", "seconds", "details")
    rows = [header, *map(cells, figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        yield "| " + " | ".join(map(str.ljust, row, widths)) + " |"


def cells(figure: Figure) -> tuple[str, ...]:
    """A row of the table."""
    seconds = ", ".join(f"{name} {value:.4g}" for name, value in figure.seconds.items())
    details = ", ".join(f"{name} {value:,.6g}" for name, value in figure.details.items())
    return figure.kind, figure.subject, figure.name, f"{figure.ratio:.3f}", seconds, details


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
