"""DPS: diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687).

p(y | x_t) is taken for p(y | x_0 = m), with m = E[x_0 | x_t] by Tweedie's formula (Eq. 11). It
takes any differentiable operator.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from samplers.base import Samples, Scores
from samplers.posterior.base import Denoise, Draw, Measurement, ScoreMethod
from samplers.posterior.conjugate_gradients import dot, ratio
from sde_lib import SDE
from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_at_least, check_positive, known

PUBLISHED_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class DPS(ScoreMethod):
    """Guides by the likelihood of the denoised state, or by the paper's steps of one length.

    It is biased, also for Gaussian data: it ignores the variance of x_0 given x_t. One evaluation
    costs one backward derivative of score_fn besides.

    Attributes:
        step_size: length zeta' of the step -zeta' grad |y - operator(m)| that follows each step of
            the sampler (Algorithm 1, and Appendix C.2, where it is 0.1 to 1 for images in [-1, 1]).
            It does not depend on the measurement's noise, so the spread of the samples does not
            either. None: the gradient of log N(y; operator(m), noise_std^2 I), Eq. 16, which needs
            noise, and more steps the less noise there is.
        n_steps: steps of the sampler, which a score function does not know; None: those of the
            sampler in a call, and the paper's 1000 in `condition`.

    Raises:
        ValueError: step_size <= 0 or n_steps < 1.
    """

    step_size: float | None = 1.0
    n_steps: int | None = None

    def __post_init__(self):
        check_positive(step_size=self.step_size)
        if self.n_steps is not None:
            check_at_least(1, n_steps=self.n_steps)

    @property
    def needs_noise(self) -> bool:
        """True for the likelihood, which divides by the variance of the noise."""
        return self.step_size is None

    @property
    def products(self) -> int:
        """One, with the transpose."""
        return 1

    def guide(
        self, measured: Measurement, denoise: Denoise, x: Batch, t: PerSample
    ) -> tuple[Batch, Any]:
        """J^T A^T (y - operator(m)), with the derivatives J of m and A of operator, and a weight.

        A score function moves a step of the chain of n_steps by v / a times its value.
        """
        sde, operator, y, noise_std = measured
        mean, backward, other = jax.vjp(denoise, x, has_aux=True)
        seen, transpose = jax.vjp(operator, mean)
        residual = y - seen
        if self.step_size is None:
            weighted = residual / noise_std**2
        else:
            n_steps = self.n_steps or PUBLISHED_STEPS
            a, v, _ = SDE.ancestral(sde, t, n_steps)  # of any n_steps
            # The last step and the denoising after it go to the data themselves, also under VE.
            last = t <= sde.t_max / n_steps
            a, v = jnp.where(last, sde.alpha(t), a), jnp.where(last, sde.sigma(t) ** 2, v)
            norm = dot(residual, residual) ** 0.5
            weighted = expand(ratio(self.step_size * a / v, norm), residual) * residual
        weighted = weighted.astype(seen.dtype)
        (guide,) = backward(*transpose(weighted))
        return guide, other

    def draw(self, measured: Measurement, score_fn: Scores, draw: Draw) -> Samples:
        """The sampler's samples by the score given y.

        Raises:
            ValueError: a step of one length after those of a sampler that has no number of steps.
        """
        if self.step_size is None:
            return super().draw(measured, score_fn, draw)
        n_steps, start = self.n_steps or getattr(draw.sampler, "n_steps", None), draw.start
        if n_steps is None or hasattr(draw.sampler, "rtol"):
            raise ValueError(
                f"dps with step_size = {self.step_size} follows the steps of a chain, and those of "
                f"{type(draw.sampler).__name__} are none: choose a sampler with n_steps, or "
                "step_size=None, the likelihood"
            )
        if not self.n_steps and start is not None and known(start.t):
            n_steps = round(n_steps * measured.sde.t_max / start.t)  # the whole chain, as of t_max
        own = dataclasses.replace(self, n_steps=n_steps)
        return super(DPS, own).draw(measured, score_fn, draw)
