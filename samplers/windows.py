"""Scores of images larger than the network's: the mean over overlapping windows.

With MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113) each step of a sampler is the mean of
the steps in the windows. Steps are affine in the score, so the mean of the scores does the same.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from sde_lib import ScoreAndVariance, ScoreFn
from sde_lib.batch import Batch, PerSample
from sde_lib.checks import check_in


def windowed(score_fn: ScoreFn, window: Sequence[int], overlap: float = 0.5) -> ScoreFn:
    """The score of larger images [B, H, W, C]: the mean of score_fn over windows that cover them.

    Args:
        score_fn: score of images [B, *window, C].
        window: height and width of its images.
        overlap: the share of a window's side that the next window covers too, at least.

    Raises:
        ValueError: an overlap outside [0, 1); when called, images smaller than a window.
    """
    check_in("[0, 1)", overlap=overlap)
    learned = isinstance(score_fn, ScoreAndVariance)
    fn: Any = score_fn.both if isinstance(score_fn, ScoreAndVariance) else score_fn

    def mean(x: Batch, t: PerSample) -> Any:
        corners = places(x.shape[1:3], window, overlap)
        counts = np.zeros((*x.shape[1:3], 1), np.float32)
        for top, left in corners:
            counts[top : top + window[0], left : left + window[1]] += 1

        def add(total: Any, corner: jax.Array) -> tuple[Any, None]:
            start = 0, corner[0], corner[1], 0
            inside = jax.lax.dynamic_slice(x, start, (len(x), *window, x.shape[3]))

            def place(whole: jax.Array, part: jax.Array) -> jax.Array:
                before = jax.lax.dynamic_slice(whole, start, part.shape)
                return jax.lax.dynamic_update_slice(whole, before + part, start)

            return jax.tree.map(place, total, fn(inside, t)), None

        zeros = (jnp.zeros_like(x),) * 2 if learned else jnp.zeros_like(x)
        total, _ = jax.lax.scan(add, zeros, jnp.asarray(corners))
        return jax.tree.map(lambda a: a / counts, total)

    return ScoreAndVariance(mean) if learned else mean


def places(
    sides: Sequence[int], window: Sequence[int], overlap: float
) -> Int[np.ndarray, "windows two"]:
    """The upper left corners of windows that cover an image evenly.

    Raises:
        ValueError: an image smaller than a window.
    """
    if any(side < length for side, length in zip(sides, window, strict=True)):
        raise ValueError(
            f"the image has {tuple(sides)} pixels: it must be at least as large as a window, "
            f"{tuple(window)}"
        )
    along = []
    for side, length in zip(sides, window, strict=True):
        n = 1 + math.ceil((side - length) / max(1, int(length * (1 - overlap))))
        along.append(np.round(np.linspace(0, side - length, n)).astype(int))
    return np.array([(top, left) for top in along[0] for left in along[1]])
