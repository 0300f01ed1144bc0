"""Brownian paths with their time integrals, for stochastic Runge-Kutta methods of order 1.5."""

from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sde_lib.batch import Batch

DEPTH = 14  # halvings of [0, 1]; in steps below 1 / 16,384 the noise is too smooth


class SpaceTimePath(diffrax.AbstractBrownianPath):
    """A batch of Brownian paths on [0, 1], each from the key of its sample, for any step sizes.

    It is diffrax.VirtualBrownianTree for a batch of keys, without the check of the times, which
    calls back to the host. W and H = mean(W) - W / 2 of an interval follow from those of a longer
    interval by Foster's formula (Jelincic, Foster & Kidger 2024, arXiv 2405.06464, Section 3).

    Attributes:
        keys: random keys, one per sample.
        shape: (B, ...).
    """

    keys: Key[Array, " batch"]
    shape: Sequence[int] = eqx.field(static=True)

    t0 = 0.0
    t1 = 1.0
    levy_area: type[diffrax.BrownianIncrement | diffrax.SpaceTimeLevyArea] = eqx.field(
        static=True, default=diffrax.SpaceTimeLevyArea
    )

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> Any:
        """Increment W(t1) - W(t0) of times in [0, 1], with H if use_levy; W(t0) if t1 is None."""
        t0, t1 = (0.0, t0) if t1 is None else (t0, t1)
        (w0, area0), (w1, area1) = (
            jax.vmap(self._of_one, (0, None))(self.keys, jnp.clip(t, 0.0, 1.0)) for t in (t0, t1)
        )
        if not use_levy:
            return w1 - w0
        dt = jnp.asarray(t1 - t0)
        h = (area1 - area0) / jnp.where(dt == 0, 1.0, dt) - 0.5 * (w0 + w1)
        return diffrax.SpaceTimeLevyArea(dt=dt, W=w1 - w0, H=h)

    def _of_one(self, key: Array, place: Array) -> tuple[Array, Array]:
        """W(place) of one sample and the integral of W from 0 to place, for a place in [0, 1]."""

        def normals(node):
            return jax.random.normal(jax.random.fold_in(key, node), (2, *self.shape[1:]))

        def halve(_, carry):
            start, length, state, whole, node = carry
            first, second = split(whole, length, 0.5, normals(node))
            length, second_half = length / 2, place >= start + length / 2
            state, whole = jax.tree.map(
                lambda a, b: jnp.where(second_half, a, b),
                (after(state, first, length), second),
                (state, first),
            )
            return start + length * second_half, length, state, whole, 2 * node + second_half

        w, h = normals(0)
        zero = jnp.zeros_like(w)
        carry = (0.0, 1.0, (zero, zero), (w, h / jnp.sqrt(12.0)), 1)
        start, length, state, whole, node = jax.lax.fori_loop(0, DEPTH, halve, carry)
        part = jnp.clip((place - start) / length, 0.0, 1.0)
        first, _ = split(whole, length, part, normals(node))
        return after(state, first, part * length)


Increment = tuple[Batch, Batch]
"""Increment over an interval: (W, length * H)."""


def split(
    whole: Increment, length: Array | float, part: Array | float, z: Float[Array, "2 *shape"]
) -> tuple[Increment, Increment]:
    """Splits the increment over an interval at the fraction `part`: (first, second) increments.

    Args:
        whole: increment over the interval.
        length: length of the interval.
        part: length of the first part as a fraction of the interval.
        z: two standard normal draws.
    """
    w, area = whole
    rest = 1 - part
    d = jnp.sqrt(part**3 + rest**3)
    root = jnp.sqrt(part * rest)
    a, b, c = root * part**3 / (2 * d), root * rest**3 / (2 * d), (part * rest) ** 1.5 / d
    w_first = part * w + 6 * part * rest * area / length + root * d * jnp.sqrt(length) * z[0]
    third = length**1.5 * c / jnp.sqrt(12.0) * z[1]
    first = w_first, part**3 * area - length**1.5 * a * z[0] + third
    second = w - w_first, rest**3 * area - length**1.5 * b * z[0] - third
    return first, second


def after(
    state: tuple[Batch, Batch], step: Increment, length: Array | float
) -> tuple[Batch, Batch]:
    """Adds the increment over an interval of a given length to W and its integral."""
    (w, integral), (dw, area) = state, step
    return w + dw, integral + length * (w + 0.5 * dw) + area
