"""Linear multistep methods: a step uses what earlier ones evaluated."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from samplers.noise_levels import Levels
from samplers.solver import Model, NoiseLevelSolver, Plan
from sde_lib.batch import Batch


def combine(weights: Iterable[Any], terms: Iterable[Batch]) -> Batch:
    """The sum of weights[i] terms[i]."""
    return functools.reduce(jnp.add, (w * a for w, a in zip(weights, terms, strict=True)))


def basis_integrals(
    nodes: Levels,
    start: float,
    end: float,
    kernel: Callable[[np.ndarray], np.ndarray] = np.ones_like,
) -> Levels:
    """Integrals, from start to end, of the kernel times each of the nodes' Lagrange polynomials.

    By Gauss-Legendre quadrature: exact for a polynomial kernel of degree 28, and so, but for
    rounding, for e^x over the lengths of steps.
    """
    x, weights = np.polynomial.legendre.leggauss(16)
    x = start + (end - start) * (x + 1) / 2
    weights = (end - start) / 2 * weights * kernel(x)
    others = [np.delete(nodes, j) for j in range(len(nodes))]
    return np.array(
        [
            weights @ np.prod((x[:, None] - other) / (node - other), axis=1)
            for node, other in zip(nodes, others, strict=True)
        ]
    )


@dataclasses.dataclass(frozen=True)
class LMS(NoiseLevelSolver):
    """Adams-Bashforth on the probability flow dy / dl = eps (Hairer et al. 1993, Section III.5).

    The polynomial through the last `order` evaluations is integrated exactly, so its coefficients
    are those of the grid, however uneven. The first steps are of the orders 1, 2, ...

    Attributes:
        order: from 1, Euler's method, to 4.

    Raises:
        ValueError: another order, or fewer steps than that.
    """

    order: int = 4

    n_past: ClassVar[int] = 3

    def __post_init__(self):
        super().__post_init__()
        check_order(self.order, (1, 2, 3, 4))
        self.check_steps(self.order)

    def plan(self, now: Levels, then: Levels) -> Plan:
        weights = np.zeros((len(now), self.n_past + 1))
        for k in range(len(now)):
            nodes = now[max(0, k + 1 - self.order) : k + 1][::-1]
            weights[k, : len(nodes)] = basis_integrals(nodes, now[k], then[k])
        return Plan(now[:, None], weights)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        noises = jnp.concatenate([model.noise(y)[None], past])
        return y + combine(c, noises), noises[:-1]


def check_order(order: int, orders: Sequence[int]) -> None:
    """Raises ValueError for an order that is none of `orders`."""
    if order not in orders:
        raise ValueError(f"order is {order}: it must be one of {', '.join(map(str, orders))}")
