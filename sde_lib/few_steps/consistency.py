"""Consistency training and distillation (Song et al. 2023, arXiv 2303.01469).

A consistency function f(x_t, t) gives the end, at t = 0, of the probability flow through x_t. Here
it is the model's estimate of the data, f = (x + sigma^2 score) / alpha, which is x itself where
there is no noise. So a trained score model is its starting point (Geng et al. 2024, arXiv
2406.14548, "Easy Consistency Tuning").

With y = x / alpha and the noise level l = sigma / alpha, two points of a path are y_l = x_0 + l z
and, at a lower level r, y_r = x_0 + r z; or, with a teacher, the point that a step of its
probability flow takes y_l to. The loss is the distance of f(y_l) from f(y_r), whose gradient is
stopped. The levels come closer in the course of training. At r = 0 the target is y_r itself, and
without a teacher the loss is that of denoising.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from sde_lib.batch import Batch, PerSample, expand
from sde_lib.checks import check_at_least, check_positive, check_types
from sde_lib.losses import perturb
from sde_lib.sde import SDE, ScoreFn

LAST_BY_DEFAULT = 8


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """The lower noise level r of a pair, by the training step (Geng et al. 2024, Section 3).

    In stage a, 1 - r / l is (1 + k sigmoid(-b l)) / 2^a with k = 8 and b = 1, but at most 1.

    Attributes:
        stage_steps: training steps in a stage.
        first_stage: stage of the first step: 0 trains by denoising; 1 suits trained weights.
        last_stage: stage that stays until the end.

    Raises:
        ValueError: a count out of range, or stages in the wrong order.
    """

    stage_steps: int = 1000
    first_stage: int = 0
    last_stage: int = LAST_BY_DEFAULT

    def __post_init__(self):
        check_types(self)
        names = {name: getattr(self, name) for name in ("first_stage", "last_stage")}
        check_at_least(1, **{"config.objective.stage_steps": self.stage_steps})
        check_at_least(0, 20, **{f"config.objective.{name}": n for name, n in names.items()})
        if self.first_stage > self.last_stage:
            raise ValueError(
                f"config.objective.first_stage is {self.first_stage}, above last_stage = "
                f"{self.last_stage}: lower it, or raise the other"
            )

    def lower(self, level: PerSample, step: int | Int[Array, ""] | None) -> PerSample:
        """The lower noise level r of each l, [B]; `step` None is the last stage."""
        stage = self.last_stage
        if step is not None:
            stage = jnp.minimum(self.first_stage + step // self.stage_steps, stage)
        gap = (1 + 8 * jax.nn.sigmoid(-level)) * jnp.exp2(-jnp.asarray(stage, float))
        return level * jnp.maximum(1 - gap, 0.0)


def consistency_loss(
    key: PRNGKeyArray,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Batch,
    curriculum: Curriculum = Curriculum(),
    step: int | Int[Array, ""] | None = None,
    teacher: ScoreFn | None = None,
    huber: float = 0.00054,
    **options: Any,
) -> tuple[PerSample, dict[str, PerSample]]:
    """The loss of consistency training or, with a teacher, of consistency distillation.

    It is (sqrt(d^2 + c^2) - c) / (l - r) with d the distance of the two estimates and
    c = huber sqrt(dimensions) (Song & Dhariwal 2023, arXiv 2310.14189, Sections 3.1 and 3.3).
    There is no average of weights in the target, whose gradient is stopped (Section 3.2).

    Args:
        key: randomness of the noise and its level; sample i's depends on key and i alone unless
            stratified.
        sde: the forward SDE, whose state is the data.
        score_fn: the model; its estimate of the data is the consistency function.
        x0: [B, ...] data.
        curriculum: the second noise level of each pair.
        step: the training step; None: the last stage of the curriculum.
        teacher: the score of a trained model, whose flow Heun's method follows from l to r; None:
            both points have the same noise.
        huber: c for one dimension; 0: the distance itself.
        options: keyword arguments of sde_lib.perturb that choose the density of l.

    Returns:
        The losses [B], and metrics [B]: "t".

    Raises:
        ValueError: an option out of range, or an SDE whose state is not the data.
    """
    check_positive(or_zero=True, **{"config.objective.huber": huber})
    check_scalar(sde, "consistency training")
    x, t, z, *_ = perturb(key, sde, x0, **options)
    level = sde.noise_level(t)
    r = curriculum.lower(level, step)
    y_r = x0 + expand(r, x0) * z
    if teacher is not None:
        y_r = flow_step(sde, teacher, x / expand(sde.alpha(t), x), level, r)
    t_r = sde.inverse_noise_level(jnp.where(r > 0, r, level))
    x_r = _x(sde, y_r, t_r)
    end = jnp.where(expand(r > 0, x_r), sde.denoise(x_r, t_r, score_fn(x_r, t_r)), y_r)
    miss = sde.denoise(x, t, score_fn(x, t)) - jax.lax.stop_gradient(end)
    square = jnp.sum(miss**2, axis=tuple(range(1, x0.ndim)))
    c = huber * math.sqrt(math.prod(x0.shape[1:]))
    distance = square / (jnp.sqrt(square + c**2) + c + jnp.finfo(square.dtype).tiny)
    return distance / (level - r), {"t": t}


def flow_step(sde: SDE, score_fn: ScoreFn, y: Batch, level: PerSample, r: PerSample) -> Batch:
    """Heun's step of the probability flow dy / dl = eps(y, l) from levels l to r, [B] each.

    To r = 0 it is Euler's step (Karras et al. 2022, arXiv 2206.00364, Algorithm 1).
    """

    def noise(y: Batch, level: PerSample) -> Batch:
        t = sde.inverse_noise_level(level)
        return -expand(sde.sigma(t), y) * score_fn(_x(sde, y, t), t)

    length, first = expand(r - level, y), noise(y, level)
    end = y + length * first
    second = noise(end, jnp.where(r > 0, r, level))
    return jnp.where(expand(r > 0, y), y + length * (first + second) / 2, end)


def check_scalar(sde: SDE, what: str) -> None:
    """Raises ValueError for an SDE whose state is not the data, such as CLD."""
    if not sde.is_scalar:
        raise ValueError(
            f"{what} needs one noise level for all of x, which {type(sde).__name__} does not have: "
            "set config.training.sde='edm' or 'flow'"
        )


def _x(sde: SDE, y: Batch, t: PerSample) -> Batch:
    """The state x = alpha y."""
    return expand(sde.alpha(t), y) * y
