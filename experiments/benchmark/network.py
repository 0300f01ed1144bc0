"""A network's arithmetic a second, against the most that this machine was seen to do."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmark import measure
from experiments.benchmark.measure import Figure, Run
from experiments.benchmark.presets import Preset
from experiments.benchmark.programs import Bare
from experiments.commands import plan
from models.convolution import LAYOUTS


def figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """A call and a gradient step of config.training.batch_size images, each against the peak.

    The peak is the faster of a matrix product and a convolution, of the network's dtype.
    """
    for subject in preset.networks:
        title, config = f"network {subject}", subject.config()
        with measure.working(f"{title}: counting"):
            network, bare, size = subject.network(), Bare(subject), config.training.batch_size
            x, t = network.inputs(size)
            work = {
                "call": flops(network.score, network.params, x, t),
                "gradient step": flops(bare.step, *bare.arguments),
            }
        runs: dict[str, Run] = {
            "call": partial(network.call(size), x),
            "gradient step": partial(bare.run, 1),
        }
        for name, (function, arguments) in peaks(preset, config.model.dtype).items():
            work[name] = flops(function, *arguments)
            runs[name] = partial(jax.jit(function), *arguments)
        measure.compiled(title, *runs.values())
        times, (*own, product, convolution) = measure.in_turns(title, runs, repeats), runs
        seconds = measure.medians(times)
        rates = {name: work[name] / seconds[name] / 1e9 for name in runs}
        best = max(product, convolution, key=rates.__getitem__)
        for name in own:
            ratio = measure.ratio(times, best, [name]) * work[name] / work[best]
            figure = {other: seconds[other] for other in (name, product, convolution)}
            details = {f"{other} GFLOP/s": rates[other] for other in figure}
            yield Figure("network", str(subject), name, ratio, figure, repeats, details)


def peaks(preset: Preset, dtype: str) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """A matrix product and a convolution, each with its arguments."""
    n, side, channels = preset.convolution
    images = jnp.ones((n, side, side, channels), dtype)
    kernel = jnp.ones((3, 3, channels, channels), dtype)
    matrix = jnp.ones((preset.matrix, preset.matrix), dtype)
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=LAYOUTS[2],
    )
    return {"product": (jnp.matmul, (matrix, matrix)), "convolution": (convolve, (images, kernel))}


def flops(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of a call as it is written, before XLA; a multiply-add counts as two."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    with jax.default_device(jax.devices("cpu")[0]):
        return plan.costs(jax.jit(function).lower(*shapes))
