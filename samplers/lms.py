"""Linear multistep methods: a step reuses the evaluations of earlier steps."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from samplers.noise_levels import Levels
from samplers.solver import Model, NoiseLevelSolver, Plan
from samplers.stochastic import Ancestral
from sde_lib import VP
from sde_lib.batch import Batch


def combine(weights: Iterable[Any], terms: Iterable[Batch]) -> Batch:
    """The weighted sum of terms: sum_i weights[i] terms[i]."""
    return functools.reduce(jnp.add, (w * a for w, a in zip(weights, terms, strict=True)))


def basis_integrals(
    nodes: Levels,
    start: float,
    end: float,
    kernel: Callable[[np.ndarray], np.ndarray] = np.ones_like,
    variable: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Levels:
    """Integrals from start to end of kernel(x) times each Lagrange polynomial of the nodes.

    The polynomials are in variable(x), and the nodes are values of x. Gauss-Legendre quadrature is
    exact for a product with the kernel of degree 31, and for e^x over the length of a step its
    error is below rounding.
    """
    x, weights = np.polynomial.legendre.leggauss(16)
    x = start + (end - start) * (x + 1) / 2
    weights = (end - start) / 2 * weights * kernel(x)
    x, nodes = variable(x), variable(nodes)
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

    A step integrates exactly the polynomial through the last `order` evaluations, so the
    coefficients are right for uneven grids too. The first steps have the orders 1, 2, ...

    Attributes:
        order: order of convergence, from 1 (Euler's method) to 4.

    Raises:
        ValueError: any other order, or fewer steps than the order.
    """

    order: int = 4

    n_past: ClassVar[int] = 3

    def __post_init__(self):
        super().__post_init__()
        check_order(self.order, (1, 2, 3, 4))
        self.check_steps(self.order)

    @property
    def fewest_steps(self) -> int:
        return self.order

    def plan(self, now: Levels, then: Levels) -> Plan:
        weights = np.zeros((len(now), self.n_past + 1))
        for k in range(len(now)):
            nodes = now[max(0, k + 1 - self.order) : k + 1][::-1]
            weights[k, : len(nodes)] = basis_integrals(
                nodes, now[k], then[k], variable=self.variable
            )
        return Plan(now[:, None], weights)

    def variable(self, levels: Levels) -> Levels:
        """The variable of the polynomials: the noise level itself."""
        return levels

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        noises = jnp.concatenate([model.noise(y)[None], past])
        return y + combine(c, noises), noises[:-1]


@dataclasses.dataclass(frozen=True)
class DEIS(LMS):
    """DEIS, t-AB (Zhang & Chen 2023, arXiv 2204.13902, Eq. 14 and 15).

    It is LMS with polynomials in the time of sde_lib.VP() at the same noise level, under any SDE.
    The noise that a network predicts is nearer to a polynomial in that than in the noise level.
    """

    def variable(self, levels: Levels) -> Levels:
        """The time t of VP, from the integral of beta, log(1 + l^2)."""
        least, most = VP().beta_min, VP().beta_max
        integral = np.log1p(np.square(levels))
        return 2 * integral / (least + np.sqrt(least**2 + 2 * (most - least) * integral))


@dataclasses.dataclass(frozen=True)
class LMSAncestral(Ancestral, LMS):
    """Ancestral sampling with the multistep method: LMS to the level below, then noise.

    The noise makes past evaluations rough, so that the order of convergence is 1 whatever `order`:
    with order = 1 it is EulerAncestral, with eta = 0 LMS. (For Gaussian data of standard deviation
    0.70, 20 steps give 0.54 with order 1 and 0.61 with order 4; DPMpp2MSDE gives 0.77.)
    """

    def plan(self, now: Levels, then: Levels) -> Plan:
        down, up = self.split(now, then)
        weights = super().plan(now, down).coefficients
        return Plan(now[:, None], (weights, up), then[:, None], self.eta**2)

    def step(self, model: Model, y: Batch, c: Any, past: Array, z: Array) -> tuple[Batch, Array]:
        weights, up = c
        y, past = super().step(model, y, weights, past, z)
        return y + up * z[0], past


def check_order(order: int, orders: Sequence[int]) -> None:
    """Raises ValueError unless `order` is one of `orders`."""
    if order not in orders:
        raise ValueError(f"order is {order}: it must be one of {', '.join(map(str, orders))}")
