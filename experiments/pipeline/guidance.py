"""Guidance of a trained model: functions from scores to scores, with options and weights.

Each kind is a class with the protocol `Guide`; GUIDES names them in the order in which they are
applied. Time shift, epsilon scaling and the discriminator correct the model's own errors; then the
classifier adds its gradient, and the result is clipped. A new kind is a new class and a line in
GUIDES.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pipeline.labels import check_labels
from samplers import guidance
from samplers.base import Scores
from samplers.guidance_schedules import Schedule
from sde_lib import SDE, ScoreAndVariance
from sde_lib.batch import Batch, PerSample
from sde_lib.checks import check_in, check_positive, known

LogRatio = Callable[..., PerSample]
"""log_ratio(params, x, t): log d / (1 - d) of a discriminator d, [B]; or with class_labels too"""
LogProbs = Callable[[Any, Batch, PerSample], jax.Array]
"""log_probs(params, x, t): log probabilities of all classes, [B, classes]"""
FIELD = "config.guidance"


class Guide(Protocol):
    """One kind of guidance.

    Attributes:
        params: arrays that it needs inside jit, such as the weights of a network; () for none.
        needs_noise_level: it needs an SDE with one noise level for all dimensions.
    """

    needs_noise_level: ClassVar[bool]

    @property
    def params(self) -> Any: ...

    def apply(self, scores: Scores, params: Any, sde: SDE, indices: jax.Array) -> Scores:
        """Inside jit: the guided score function, or functions, of the samples of these indices."""
        ...


@dataclasses.dataclass(frozen=True)
class TimeShift:
    """Time-shift sampling (samplers.guidance.time_shift).

    Attributes:
        window: how far in t the network's time may follow the variance of the sample.
        cutoff: the least t at which it does.
    """

    window: float
    cutoff: float = 0.0
    params: Any = ()
    needs_noise_level: ClassVar[bool] = True

    @property
    def changes(self) -> bool:
        """False if the guide changes no score."""
        return self.window > 0

    def __post_init__(self):
        options = {"window": self.window, "cutoff": self.cutoff}
        check_positive(or_zero=True, **{f"{FIELD}.time_shift.{k}": v for k, v in options.items()})

    def apply(self, scores: Scores, params: Any, sde: SDE, indices: jax.Array) -> Scores:
        shift = partial(guidance.time_shift, sde=sde, window=self.window, cutoff=self.cutoff)
        return jax.tree.map(shift, scores)


@dataclasses.dataclass(frozen=True)
class EpsilonScaling:
    """Division of the predicted noise by b = scale + slope t + step_slope i (Ning et al. 2023).

    i is the number of the sampler's step: 0 at its first noise level, 1 at the next.

    Attributes:
        scale: b at t = 0, or in the first step.
        slope: the change of b with t.
        step_slope: the change of b with i.
        levels: the sampler's noise levels, for i; `of_sampler` gives them.
    """

    scale: Any = 1.0
    slope: Any = 0.0
    step_slope: Any = 0.0
    levels: tuple[float, ...] = ()
    params: Any = ()
    needs_noise_level: ClassVar[bool] = False

    @property
    def changes(self) -> bool:
        """False if the guide changes no score."""
        return (self.scale, self.slope, self.step_slope) != (1.0, 0.0, 0.0)

    @property
    def by_steps(self) -> bool:
        """True if b may change with the step; a traced slope may."""
        return not known(self.step_slope) or self.step_slope != 0

    def __post_init__(self):
        check_positive(**{f"{FIELD}.epsilon_scaling.scale": self.scale})
        slopes = {name: getattr(self, name) for name in ("slope", "step_slope")}
        check_in("(-inf, inf)", **{f"{FIELD}.epsilon_scaling.{k}": v for k, v in slopes.items()})

    def of_sampler(self, sampler: Any, sde: SDE) -> Self:
        """The same with the sampler's noise levels, if it needs them.

        Raises:
            ValueError: a sampler that chooses its steps itself.
        """
        if not self.by_steps:
            return self
        if not hasattr(sampler, "own_levels"):
            raise ValueError(
                f"{FIELD}.epsilon_scaling.step_slope is {self.step_slope}, but the sampler "
                f"{type(sampler).__name__} has no fixed steps: set it to 0, or take another sampler"
            )
        levels = tuple(np.asarray(sampler.own_levels(sde), float).tolist())
        return dataclasses.replace(self, levels=levels)

    def apply(self, scores: Scores, params: Any, sde: SDE, indices: jax.Array) -> Scores:
        last = self.scale + self.slope * sde.t_max
        check_positive(**{f"{FIELD}.epsilon_scaling: scale + {sde.t_max:g} slope": last})
        b = self._by_steps(sde) if self.by_steps else guidance.linear(self.slope, self.scale)
        return jax.tree.map(lambda fn: guidance.epsilon_scaling(fn, b), scores)

    def _by_steps(self, sde: SDE) -> Callable[[PerSample], PerSample]:
        n = len(self.levels) - 1
        last = self.scale + self.step_slope * n
        check_positive(**{f"{FIELD}.epsilon_scaling: scale + {n} step_slope": last})
        number = guidance.step_number(sde, self.levels)
        return lambda t: self.scale + self.slope * t + self.step_slope * number(t)


@dataclasses.dataclass(frozen=True, eq=False)
class Discriminator:
    """Guidance by a discriminator of noisy samples and noisy data (Kim et al. 2023).

    Attributes:
        log_ratio: the discriminator's.
        params: its weights.
        weight: of its gradient, in the first evaluation of a solver's step.
        weight_2nd_order: in the other evaluations, such as Heun's second.
        boost: double the gradient where the sample is taken for a fake.
        sigma_min: the lowest noise level sigma / alpha at which it guides; None: as published.
        sigma_max: likewise, the highest.
        labels: the classes of the samples, in turn; () for all of them in turn.
        n_classes: classes of the model that is guided, if the log ratio takes class_labels; or 0.
    """

    log_ratio: LogRatio
    params: Any
    weight: Any = 1.0
    weight_2nd_order: float = 0.0
    boost: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None
    labels: tuple[int, ...] = ()
    n_classes: int = 0
    needs_noise_level: ClassVar[bool] = True

    def __post_init__(self):
        if self.n_classes:
            check_labels(self.labels, self.n_classes)
        weights = {name: getattr(self, name) for name in ("weight", "weight_2nd_order")}
        levels = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        given = {name: level for name, level in levels.items() if level is not None}
        check_positive(
            or_zero=True, **{f"{FIELD}.discriminator.{k}": v for k, v in weights.items()}
        )
        named: dict[str, Any] = {f"{FIELD}.discriminator.{k}": v for k, v in given.items()}
        check_positive(**named)

    def check_sampler(self, sampler: Any) -> None:
        """Raises ValueError for a sampler that cannot tell the evaluations of a step apart."""
        if getattr(sampler, "takes_tuple", False):  # first: a weight may be traced
            return
        if self.weight != self.weight_2nd_order:
            raise ValueError(
                f"the sampler {type(sampler).__name__} does not tell the first evaluation of a "
                "step from the others: take 'edm', 'heun' or another solver of noise levels, or "
                f"the same {FIELD}.discriminator.weight and weight_2nd_order"
            )

    def apply(self, scores: Scores, params: Any, sde: SDE, indices: jax.Array) -> Scores:
        assert callable(scores)
        classes = {"class_labels": _in_turn(self, indices)} if self.n_classes else {}
        return guidance.discriminator(
            scores,
            sde,
            partial(self.log_ratio, params, **classes),
            self.weight,
            self.weight_2nd_order,
            self.sigma_min,
            self.sigma_max,
            self.boost,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """Guidance by a classifier of noisy data (Song et al. 2021, Eq. 14).

    Attributes:
        log_probs: the classifier's.
        params: its weights.
        n_classes: classes that it knows.
        labels: the classes to guide to, in turn; () for all of them in turn.
        weight: of its gradient.
        schedule: of the weight.
    """

    log_probs: LogProbs
    params: Any
    n_classes: int
    labels: tuple[int, ...] = ()
    weight: float = 1.0
    schedule: Schedule = Schedule()
    needs_noise_level: ClassVar[bool] = False

    def __post_init__(self):
        check_positive(or_zero=True, **{f"{FIELD}.classifier.weight": self.weight})
        check_labels(self.labels, self.n_classes)

    def apply(self, scores: Scores, params: Any, sde: SDE, indices: jax.Array) -> Scores:
        labels = _in_turn(self, indices)

        def log_prob(x: Batch, t: PerSample) -> PerSample:
            rows = self.log_probs(params, x, t)
            return jnp.take_along_axis(rows, labels[:, None], axis=1)[:, 0]

        weight = self.schedule.weight(self.weight, sde, outside=0.0)
        guide = partial(guidance.gradient, log_prob=log_prob, weight=weight)
        return jax.tree.map(guide, scores)


@dataclasses.dataclass(frozen=True)
class Clip:
    """Clipping of the estimate of x_0 to [-limit, limit] (samplers.guidance.clip).

    Attributes:
        limit: the largest absolute value of the data in model space.
    """

    limit: float
    params: Any = ()
    needs_noise_level: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(**{f"{FIELD}.clip.limit": self.limit})

    def apply(self, scores: Scores, params: Any, sde: SDE, indices: jax.Array) -> Scores:
        return jax.tree.map(lambda fn: guidance.clip(fn, sde, self.limit), scores)


def _in_turn(guide: Discriminator | Classifier, indices: jax.Array) -> jax.Array:
    """The classes of the samples of these indices."""
    labels = jnp.asarray(guide.labels or tuple(range(guide.n_classes)), jnp.int32)
    return labels[indices % len(labels)]


GUIDES: dict[str, type] = {
    "time_shift": TimeShift,
    "epsilon_scaling": EpsilonScaling,
    "discriminator": Discriminator,
    "classifier": Classifier,
    "clip": Clip,
}


def of_sampler(guides: Sequence[Guide], sampler: Any, sde: SDE) -> tuple[Guide, ...]:
    """The guides with what they need to know of the sampler."""
    return tuple(
        guide.of_sampler(sampler, sde) if isinstance(guide, EpsilonScaling) else guide
        for guide in guides
    )


def apply(
    guides: Sequence[Guide], scores: Scores, params: Sequence[Any], sde: SDE, indices: jax.Array
) -> Scores:
    """Inside jit: the scores guided by each in turn; params are [guide.params ...]."""
    for guide, own in zip(guides, params, strict=True):
        scores = guide.apply(scores, own, sde, indices)
    return scores


def check(guides: Sequence[Guide], sde: SDE, learned_variance: bool = False) -> None:
    """Raises ValueError for guides that do not go with the SDE, or lose a learned variance."""
    for guide in guides:
        scheduled = getattr(guide, "schedule", Schedule()).name != "constant"
        if (guide.needs_noise_level or scheduled) and not sde.is_scalar:
            raise ValueError(
                f"{FIELD}: {type(guide).__name__} goes by the noise level, which {sde} does not "
                "have: leave it out"
            )
        score_fn = ScoreAndVariance(lambda x, t: (x, x))
        made = guide.apply(score_fn, guide.params, sde, jnp.zeros(1, int))  # checks its numbers
        kept = all(isinstance(each, ScoreAndVariance) for each in jax.tree.leaves(made))
        if learned_variance and not kept:
            raise ValueError(
                f"config.sampling.variance is 'learned', but the guide {type(guide).__name__} "
                "returns a score function without the variance: return a ScoreAndVariance for one, "
                "or take 'posterior'"
            )
