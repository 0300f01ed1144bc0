"""A method for linear operators on any other: the operator's tangent at the denoised state.

With m = E[x_0 | x_t], operator(x_0) is about operator(m) + A (x_0 - m), where A is the derivative
at m. That is the approximation of an extended Kalman filter, made anew in each evaluation.
"""

import dataclasses
from typing import Any

import jax

from samplers.posterior.base import Denoise, Measurement, ScoreMethod
from sde_lib.batch import Batch, PerSample


@dataclasses.dataclass(frozen=True)
class Linearized(ScoreMethod):
    """Applies a method of scores to the tangent of any differentiable operator.

    It is the method itself for linear operators. For others it is as good as the tangent is over
    the spread of x_0 given x_t, which shrinks towards the end. Give noise where y has more values
    than x: without it the samples follow the nearest measurement that an x has.

    Attributes:
        method: of linear operators, such as MomentMatching().
    """

    method: ScoreMethod

    @property
    def needs_noise(self) -> bool:
        """True if the method divides by the variance of the measurement's noise."""
        return self.method.needs_noise

    @property
    def products(self) -> int:
        """The products with the network's Jacobian that the method takes."""
        return self.method.products

    def guide(
        self, measured: Measurement, denoise: Denoise, x: Batch, t: PerSample
    ) -> tuple[Batch, Any]:
        """The method's guide by A, given y - operator(m) + A m."""
        mean, _ = denoise(x)  # XLA computes it once with that in the method
        seen, tangent = jax.linearize(measured.operator, mean)
        y = measured.y - seen + tangent(mean)
        return self.method.guide(measured._replace(operator=tangent, y=y), denoise, x, t)
