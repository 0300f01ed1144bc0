"""Replacement: the measured part of every state is replaced by the measurement, noised as much.

It is score_sde's inpainting and colourisation (Song et al. 2021, Appendix I). It is biased: the
network sees a measured part whose noise is independent of the rest of the state. So the
unmeasured part agrees too little with the measured one, however many steps there are.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from samplers.base import Samples, Scores
from samplers.posterior.base import Draw, Measurement, PosteriorMethod
from samplers.posterior.checks import TOLERANCE, Operator, one_score
from samplers.posterior.conjugate_gradients import dot, ratio
from sde_lib.batch import Batch, expand, fold_in, normal, sample_keys
from sde_lib.checks import known

NOISE = 1 << 22  # folded into a sample's key: no step of a sampler has this number


@dataclasses.dataclass(frozen=True)
class Replacement(PosteriorMethod):
    """Replaces A x_t by alpha y + noise of A x_t, drawn anew at each time, and A x_0 by y.

    A^T must be the pseudoinverse of A up to a factor, as for masks, grey images and means over
    blocks. The measurement is taken for exact. A corrector's steps at one time share the noise,
    which the published code draws anew.
    """

    linear: ClassVar[bool] = True

    @property
    def products(self) -> int:
        """None: no derivatives are taken."""
        return 0

    def draw(self, measured: Measurement, score_fn: Scores, draw: Draw) -> Samples:
        """The sampler's samples, whose measured part is replaced.

        Raises:
            ValueError: a sampler with adaptive steps, which would follow the noise, or a noise_std
                that is not 0.
        """
        sde, _, _, noise_std = measured
        key, sampler, shape, first_index, _ = draw
        if hasattr(sampler, "rtol"):
            raise ValueError(
                f"replacement draws noise at each time, which the adaptive {type(sampler).__name__}"
                " would follow by ever smaller steps: choose a sampler with a number of steps"
            )
        if known(noise_std) and noise_std != 0:
            raise ValueError(
                f"noise_std is {noise_std}, and replacement is for exact measurements: set it to "
                "0, or take another method"
            )
        self.check_operator(measured, shape)
        score_fn = one_score(score_fn, shape)
        _, operator, y, _ = measured.of_type(measured.y.dtype)
        factor = _factor(operator, shape)
        transpose = jax.linear_transpose(operator, jnp.zeros(tuple(shape)))
        keys = fold_in(sample_keys(key, shape[0], first_index), NOISE)

        def moved(x: Batch, seen: Batch) -> Batch:
            """The nearest state to x whose measurement is `seen`."""
            return x + transpose(seen - operator(x))[0] / factor

        def replaced(x: Array, t: Array) -> Array:
            alpha, sigma = expand(sde.alpha(t), y), expand(sde.sigma(t), y)
            bits = jax.lax.bitcast_convert_type(t.astype(jnp.float32), jnp.uint32)
            z = operator(normal(jax.vmap(jax.random.fold_in)(keys, bits), x.shape))
            other = moved(x, alpha * y + sigma * z)
            # The denoised state of x is then that of the replaced one.
            return score_fn(other, t) + (other - x) / expand(sde.sigma(t) ** 2, x)

        samples = draw.by(sde, replaced)
        return samples._replace(x=moved(samples.x, y))


def _factor(operator: Operator, shape: Sequence[int]) -> float | Array:
    """The c of A A^T A = c A. Raises ValueError if there is none."""
    u = np.random.RandomState(0).standard_normal(tuple(shape)).astype(np.float32)
    with jax.ensure_compile_time_eval():
        seen = operator(jnp.asarray(u))
        again = operator(jax.linear_transpose(operator, jnp.asarray(u))(seen)[0])
        each = ratio(dot(seen, again), dot(seen, seen))
    if not known(each):
        return jnp.max(each)
    seen, again = np.asarray(seen), np.asarray(again)
    factor = float(np.asarray(each).max())
    if not np.abs(again - factor * seen).max() <= TOLERANCE * np.abs(factor * seen).max():
        raise ValueError(
            "replacement needs an operator A with A A^T A = c A, such as a mask, a grey image or "
            "means over blocks: take another method, such as moment_matching or pigdm"
        )
    return factor
