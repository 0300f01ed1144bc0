"""The speed of this program: ratios of times that were taken in turns in one process.

    python -m experiments.benchmark --preset=cpu|gpu [--output=benchmark.json] [--only=train,data]
    python -m experiments.benchmark --preset=cpu|gpu --peers

| figure     | numerator of the ratio                       | denominator                         |
| ---------- | -------------------------------------------- | ----------------------------------- |
| start      | seconds to the first step and picture of a   | the same, when nothing is compiled  |
|            | command that was run before                  | yet                                 |
| memory     | bytes of a training step, a batch of samples | bytes of the state, of the weights  |
| train      | the trainer: data, logging, EMA, checkpoints | bare compiled gradient steps        |
| data       | batches a second of the data pipeline        | bare gradient steps a second        |
| sample     | samples by each sampler                      | NFE bare calls of the network       |
| guidance   | guided samples                               | bare calls of the networks          |
| likelihood | log-likelihoods                              | NFE bare jvps of the score          |
| network    | FLOP/s of a call, and of a gradient step     | the machine's peak                  |
| profile    | time in convolutions and matrix products     | time in all operations              |
| peers      | calls, steps, samples, likelihoods           | by diffusers and k-diffusion        |

Compilation is not part of any time but those of "start". Weights are untrained: the times do not
depend on them, except for the NFE of adaptive solvers. `--peers` compares with PyTorch's libraries,
if they are installed (experiments/benchmark/peers). The preset gpu takes random images in place
of CIFAR-10. The file has what was measured so far. If a part fails, its error is in the file, the
others are measured, and the process ends with status 1.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import absl.logging
import jax

from experiments import edge
from experiments.benchmark import (
    likelihood,
    memory,
    network,
    peers,
    profile,
    sampling,
    start,
    training,
)
from experiments.benchmark.measure import Figure
from experiments.benchmark.presets import PRESETS, Preset
from experiments.runs import files
from experiments.runs.long import interrupt

FIGURES: dict[str, Callable[[Preset, int], Iterator[Figure]]] = {
    "start": start.figures,  # comes first: its commands need the device's memory
    "memory": memory.figures,  # comes next: a device counts its peak since the start
    "train": training.train_figures,
    "data": training.data_figures,
    "sample": sampling.figures,
    "guidance": sampling.guidance_figures,
    "likelihood": likelihood.figures,
    "network": network.figures,
    "profile": profile.figures,
    "peers": peers.figures,
}
OWN = [kind for kind in FIGURES if kind != "peers"]  # that need no other library


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the figures that are asked for, and prints their table.

    The file is written anew with each of them. A part that fails is recorded there, and the others
    are measured; the process then ends with status 1.
    """
    options = parse(arguments)
    found: list[Figure] = []
    failed: list[dict[str, str]] = []
    about: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        "preset": options.preset,
    }
    if "peers" in options.only:
        about["versions"] |= peers.versions()
        print(about["versions"], file=sys.stderr, flush=True)

    def write() -> None:
        report = about | {"figures": [figure._asdict() for figure in found], "failed": failed}
        files.write_json(options.output, report)

    with tempfile.TemporaryDirectory() as folder:
        preset = PRESETS[options.preset].with_data(Path(folder))
        for kind in options.only:
            print(f"{kind}:", file=sys.stderr, flush=True)
            for name, part in preset.parts(kind).items():
                try:
                    for figure in FIGURES[kind](part, options.repeats):
                        print("  " + "  ".join(cells(figure)), file=sys.stderr, flush=True)
                        found.append(figure)
                        write()
                except Exception as error:  # whatever it is, the other parts can be measured
                    failed.append({"kind": kind, "part": name, "error": edge.message(error)})
                    print(f"  {name}: {failed[-1]['error']}", file=sys.stderr, flush=True)
                    write()
    print("\n".join(table(found)))
    print(options.output)
    if failed:
        parts = ", ".join(f"{failure['kind']} {failure['part']}" for failure in failed)
        sys.exit(f"error: {len(failed)} parts failed, whose errors {options.output} has: {parts}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags. A wrong one ends the process with a message that names the right ones."""
    parser = argparse.ArgumentParser("python -m experiments.benchmark", allow_abbrev=False)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--output", type=files.expand, default=Path("benchmark.json"))
    parser.add_argument("--only", default=",".join(OWN), help="figures, separated by commas")
    parser.add_argument(
        "--peers", dest="only", action="store_const", const="peers", help="short for --only=peers"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the medians are shown")
    options = parser.parse_args(arguments)
    asked = options.only.split(",")
    if unknown := set(asked) - set(FIGURES):
        parser.error(
            f"--only: unknown {', '.join(sorted(unknown))}: choose among {', '.join(FIGURES)}"
        )
    options.only = [kind for kind in FIGURES if kind in asked]
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}: it must be at least 1")
    if not options.output.absolute().parent.is_dir():
        parser.error(f"--output: there is no folder {options.output.parent}")
    return options


def table(figures: Sequence[Figure]) -> Iterator[str]:
    """The lines of the figures' table, in aligned Markdown."""
    header = ("figure", "of", "what", "ratio", "seconds", "details")
    rows = [header, *map(cells, figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        yield "| " + " | ".join(map(str.ljust, row, widths)) + " |"


def cells(figure: Figure) -> tuple[str, ...]:
    """A figure as a row of the table."""
    seconds = ", ".join(f"{name} {value:.4g}" for name, value in figure.seconds.items())
    details = ", ".join(f"{name} {value:,.6g}" for name, value in figure.details.items())
    return figure.kind, figure.subject, figure.name, f"{figure.ratio:.3f}", seconds, details


def run() -> None:
    """Starts the process: progress is shown, Ctrl-C works, and a mistake ends in one message."""
    logging.basicConfig(format="%(message)s", force=True)
    absl.logging.set_verbosity(absl.logging.ERROR)  # orbax would log every step it takes
    logging.getLogger("experiments").setLevel(logging.INFO)
    logging.getLogger("experiments.training").setLevel(logging.WARNING)  # whose steps are timed
    interrupt.listen()
    with edge.guard(lambda: None):
        main()


if __name__ == "__main__":
    run()
