"""Moment matching: x_0 given x_t is taken for Gaussian, with the covariance of its mean's slope.

Rozet et al. 2024 (arXiv 2405.13712); Boys et al. 2023 (arXiv 2310.06721). The guide is
J A^T (A C A^T + noise_std^2 I)^-1 (y - A m). Here m = E[x_0 | x_t] by Tweedie's formula, J = dm/dx,
and C = sigma^2 / alpha J is the covariance of x_0 given x_t.
"""

import dataclasses
from typing import Any, ClassVar

import jax

from samplers.posterior.base import Denoise, Measurement, ScoreMethod
from samplers.posterior.conjugate_gradients import solve
from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_at_least


@dataclasses.dataclass(frozen=True)
class MomentMatching(ScoreMethod):
    """Guides by the Gaussian with the mean and the covariance of x_0 given x_t.

    For Gaussian data the result is exact if the inverse is. n_iterations of conjugate gradients
    approximate the inverse. Each takes one product with J, a forward derivative, since the Jacobian
    of a score is symmetric. So one evaluation costs about 1 + n_iterations of score_fn.

    Attributes:
        n_iterations: number of conjugate gradient iterations. 1 to 3 are enough for images. As many
            as A has rows, or a few more in float32, make the inverse exact.

    Raises:
        ValueError: n_iterations < 1.
    """

    n_iterations: int = 3

    linear: ClassVar[bool] = True

    def __post_init__(self):
        check_at_least(1, n_iterations=self.n_iterations)

    @property
    def products(self) -> int:
        """One for each iteration."""
        return self.n_iterations

    def guide(
        self, measured: Measurement, denoise: Denoise, x: Batch, t: PerSample
    ) -> tuple[Batch, Any]:
        """J A^T (A C A^T + noise_std^2 I)^-1 (y - A m)."""
        sde, operator, y, noise_std = measured
        mean, jacobian, other = jax.linearize(denoise, x, has_aux=True)
        residual = y - operator(mean)
        transpose = jax.linear_transpose(operator, x)
        scale = (sde.sigma(t) ** 2 / sde.alpha(t)).astype(x.dtype)  # C = scale J
        about = residual, noise_std**2 / scale, x, self.n_iterations
        shift = solve(operator, lambda r: transpose(r)[0], jacobian, *about)
        return shift / expand(scale, x), other
