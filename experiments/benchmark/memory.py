"""Bytes that a training step and a batch of samples take, for each image."""

from collections.abc import Iterator
from typing import Any

import jax

from experiments import plan, sample
from experiments.benchmark.measure import Figure
from experiments.benchmark.presets import Preset
from experiments.benchmark.sampling import sampling_config
from experiments.benchmark.subject import Network
from experiments.benchmark.training import make_training


def figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """As XLA lays it out, over what the program is given: the state, or the weights.

    Where the device counts its memory, also its peak so far, if it is a new one.
    """
    for subject in preset.subjects:
        config, n = subject.config(), preset.n_samples
        network = Network.of(sampling := sampling_config(preset, subject, "predictor_corrector"))
        draw: Any = sample.make_draw(sampling, network.model, network.params, n)
        program = draw.func.lower(*draw.args, 0).compile()
        details = _peak(lambda program=program, draw=draw: program(*draw.args, 0))
        yield _figure(str(subject), "sampling", program, details, n)
        step, state, batches = make_training(config)
        given = state, *next(batches)
        program = step.lower(*given).compile()
        details = _peak(lambda program=program, given=given: program(*given))
        yield _figure(str(subject), "training", program, details, config.training.batch_size)


def _figure(
    subject: str, name: str, program: jax.stages.Compiled, details: dict[str, int], n: int
) -> Figure:
    memory: Any = program.memory_analysis()
    in_all = sum(getattr(memory, f"{part}_size_in_bytes") for part in (*plan.HELD, "output"))
    in_all -= memory.alias_size_in_bytes  # outputs in the place of arguments
    in_bytes = {"bytes": in_all, **details}
    each = {f"{name}/image": round(n_bytes / n) for name, n_bytes in in_bytes.items()}
    return Figure("memory", subject, name, in_all / memory.argument_size_in_bytes, {}, 1, each)


def _peak(run: Any) -> dict[str, int]:
    """The device's peak, if run() makes a new one."""
    device = jax.devices()[0]
    if not device.memory_stats():
        return {}
    before = device.memory_stats()["peak_bytes_in_use"]
    jax.block_until_ready(run())
    peak = device.memory_stats()["peak_bytes_in_use"]
    return {"peak bytes": peak} if peak > before else {}
