"""Bytes that a training step and a batch of samples take, for each image."""

from collections.abc import Iterator
from typing import Any

import jax

from experiments.benchmark.measure import Figure, Run
from experiments.benchmark.presets import Preset
from experiments.benchmark.programs import programs
from experiments.commands import plan


def figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """Bytes as XLA lays them out, against those of the program's input: the state, or the weights.

    Where the device counts its memory, a detail is its peak so far, if it is a new one.
    """
    for subject in preset.subjects:
        for name, n, program, run in programs("memory", subject, preset.n_samples, preset.n_steps):
            memory: Any = program.memory_analysis()
            parts = (*plan.HELD, "output")
            in_all = sum(getattr(memory, f"{part}_size_in_bytes") for part in parts)
            in_all -= memory.alias_size_in_bytes  # outputs in the place of arguments
            counted = {"bytes": in_all, **_new_peak(run)}
            each = {f"{what}/image": round(n_bytes / n) for what, n_bytes in counted.items()}
            ratio = in_all / memory.argument_size_in_bytes
            yield Figure("memory", str(subject), name, ratio, {}, 1, each)


def _new_peak(run: Run) -> dict[str, int]:
    device = jax.devices()[0]
    if not device.memory_stats():
        return {}
    before = device.memory_stats()["peak_bytes_in_use"]
    jax.block_until_ready(run())
    peak = device.memory_stats()["peak_bytes_in_use"]
    return {"peak bytes": peak} if peak > before else {}
