"""DPS: diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687).

p(y | x_t) is taken for p(y | x_0 = m), with m = E[x_0 | x_t] by Tweedie's formula (Eq. 11). It
takes any differentiable operator.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from samplers.base import Samples, Scores, Start
from samplers.posterior.base import Denoise, Measurement, ScoreMethod
from samplers.posterior.checks import Operator
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

    linear: ClassVar[bool] = False

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

    def __call__(
        self,
        key: PRNGKeyArray,
        sampler: Callable[..., Samples],
        sde: SDE,
        score_fn: Scores,
        operator: Operator,
        y: Batch,
        shape: Sequence[int],
        noise_std: float = 0.0,
        first_index: int | Array = 0,
        start: Start | None = None,
    ) -> Samples:
        """Draws samples given y by any sampler. The arguments are those of PosteriorMethod."""
        n_steps = self.n_steps or getattr(sampler, "n_steps", None)
        if not self.n_steps and n_steps and start is not None and known(start.t):
            n_steps = round(n_steps * sde.t_max / start.t)  # the whole chain, from the prior on
        own = dataclasses.replace(self, n_steps=n_steps)
        about = sde, score_fn, operator, y, shape, noise_std, first_index, start
        return super(DPS, own).__call__(key, sampler, *about)
