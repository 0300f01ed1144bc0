"""The time of a training step and of a batch of samples, by kinds of operations."""

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jax

from experiments.benchmark import measure
from experiments.benchmark.measure import Figure, Run
from experiments.benchmark.presets import Preset
from experiments.benchmark.programs import programs
from experiments.commands.cost.compiled import COMPUTATION, INSTRUCTION

KINDS = {  # a fusion is of the first kind that has one of its operations
    "convolution": {"convolution"},
    "product": {"dot"},
    "collective": {"all-reduce", "all-gather", "reduce-scatter", "all-to-all"},
    "random": {"rng-bit-generator", "xor"},  # threefry's
    "reduction": {"reduce", "reduce-window", "sort"},
}
MOVES = {
    *("bitcast", "broadcast", "concatenate", "constant", "copy", "copy-done", "copy-start"),
    *("dynamic-slice", "dynamic-update-slice", "gather", "get-tuple-element", "iota", "pad"),
    *("parameter", "reshape", "reverse", "scatter", "slice", "transpose", "tuple"),
}
OUTER = {"call", "conditional", "while"}  # their operations are timed one by one
CALLS = re.compile(r"calls=%?([\w.-]+)")
TARGET = re.compile(r'custom_call_target="([^"]*)"')


def figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """The share of convolutions and matrix products in all operations' time."""
    for subject in preset.subjects:
        for program in programs("profile", subject, preset.n_samples, preset.n_steps):
            text = program.compiled.as_text()
            assert text is not None  # XLA's own backends have it
            title, rounds = f"profile {subject} {program.name}", []
            measure.compiled(title, program.run)
            with measure.working(f"{title}: tracing", repeats) as shown:
                for _ in range(repeats):
                    rounds.append(by_kind(kinds(text), trace(program.run)))
                    shown.update()
            names = sorted(set().union(*rounds))
            times = {name: [seconds[name] for seconds in rounds] for name in names}
            seconds = measure.medians(times)
            arithmetic = seconds.get("convolution", 0.0) + seconds.get("product", 0.0)
            ratio = arithmetic / sum(seconds.values())
            yield Figure("profile", str(subject), program.name, ratio, seconds, repeats, {})


def kinds(text: str) -> dict[str, str]:
    """The kind of each instruction of a compiled program's text, by its name."""
    operations: dict[str, set[str]] = {}  # in each computation
    found: dict[str, tuple[str, str]] = {}  # operation and callee of each instruction
    inside = operations.setdefault("", set())
    for row in text.splitlines():
        if match := INSTRUCTION.match(row):
            name, _, operation = match.groups()
            if target := TARGET.search(row):
                operation = _operation_of(target[1])
            callee = CALLS.search(row)
            found[name] = operation, callee[1] if callee else ""
            inside.add(operation)
        elif match := COMPUTATION.match(row):
            inside = operations.setdefault(match[1], set())
    return {
        name: _kind({operation} - {"fusion"} | (operations[callee] if callee else set()))
        for name, (operation, callee) in found.items()
        if operation not in OUTER
    }


def _operation_of(target: str) -> str:
    """The operation that a library's function computes, such as "dot" for cuBLAS."""
    known = {"conv": "convolution", "gemm": "dot", "matmul": "dot", "fmha": "dot"}
    return next((known[part] for part in known if part in target.lower()), "custom-call")


def _kind(operations: set[str]) -> str:
    for kind, some in KINDS.items():
        if operations & some:
            return kind
    return "copy" if operations <= MOVES else "elementwise"


def trace(run: Run) -> list[tuple[str, float]]:
    """Names and seconds of all events of one run."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(run())
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        events = [event for plane in data.planes for line in plane.lines for event in line.events]
        return [(_instruction(event), event.duration_ns / 1e9) for event in events]


def _instruction(event) -> str:
    """The instruction of an event. Events of a GPU are named by kernels, those of a CPU are not."""
    return next((str(value) for name, value in event.stats if name == "hlo_op"), event.name)


def by_kind(kind_of: dict[str, str], events: list[tuple[str, float]]) -> dict[str, float]:
    """Seconds of each kind; events that are no instructions are left out."""
    seconds = defaultdict(float)
    for name, taken in events:
        if name in kind_of:
            seconds[kind_of[name]] += taken
    return seconds
