"""PiGDM: pseudoinverse-guided diffusion (Song, Vahdat, Mardani, Kautz 2023, ICLR).

x_0 given x_t is taken for N(m, r_t^2 I), with m = E[x_0 | x_t] by Tweedie's formula. The guide is
J^T A^T (r_t^2 A A^T + noise_std^2 I)^-1 (y - A m), with J = dm/dx (Eq. 7). It is
J^T A^+ (y - A m) / r_t^2 for exact measurements, hence the name (Eq. 8). A y that no x has is then
taken for the nearest that one has.
"""

import dataclasses
from typing import Any, ClassVar

import jax

from samplers.posterior.base import Denoise, Measurement, ScoreMethod, variance_given_x
from samplers.posterior.conjugate_gradients import solve
from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_at_least, check_positive


@dataclasses.dataclass(frozen=True)
class PiGDM(ScoreMethod):
    """Guides by a Gaussian of one variance, r_t^2, for x_0 given x_t.

    It is exact for data N(m, data_std^2 I), and biased for all others: it ignores the correlations
    of x_0 given x_t. One evaluation costs one backward derivative of score_fn besides.

    Attributes:
        data_std: standard deviation of the data, c in r_t^2 = c^2 l^2 / (c^2 + l^2) with the noise
            level l = sigma / alpha. The paper has c = 1.
        n_iterations: conjugate gradient iterations for the inverse, which do not evaluate the
            network. One is exact if A A^T is a multiple of the identity or of a projection: masks,
            grey images, means over blocks.

    Raises:
        ValueError: data_std <= 0 or n_iterations < 1.
    """

    data_std: float = 1.0
    n_iterations: int = 10

    linear: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(data_std=self.data_std)
        check_at_least(1, n_iterations=self.n_iterations)

    @property
    def products(self) -> int:
        """One, with the transpose."""
        return 1

    def guide(
        self, measured: Measurement, denoise: Denoise, x: Batch, t: PerSample
    ) -> tuple[Batch, Any]:
        """J^T A^T (r_t^2 A A^T + noise_std^2 I)^-1 (y - A m)."""
        sde, operator, y, noise_std = measured
        mean, backward, other = jax.vjp(denoise, x, has_aux=True)
        residual = y - operator(mean)
        transpose = jax.linear_transpose(operator, x)
        variance = variance_given_x(sde, t, self.data_std).astype(x.dtype)
        about = residual, noise_std**2 / variance, x, self.n_iterations
        shift = solve(operator, lambda r: transpose(r)[0], lambda g: g, *about)
        (guide,) = backward(shift / expand(variance, x))
        return guide, other
