"""The contract of posterior samplers: one way to call them all, and the part that scores share.

A measurement is y = operator(x_0) + noise_std z, with standard normal z. A method draws samples of
x_0 given y from the score of x_0 without y:

    samples = method(key, sampler, sde, score_fn, operator, y, shape, noise_std)

A ScoreMethod approximates grad log p(y | x_t). Its `condition` turns the score into the score given
y, for any sampler, and composes with guidance. The other methods change the sampling itself.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from jaxtyping import Array, PRNGKeyArray

from samplers.base import Samples, Scores, Start
from samplers.posterior.checks import Operator, as_measurement, check_linear, check_operator
from sde_lib import SDE, ScoreAndVariance, ScoreFn
from sde_lib.batch import Batch, PerSample
from sde_lib.checks import known

Denoise = Callable[[Batch], tuple[Batch, Any]]
"""denoise(x) = (E[x_0 | x_t = x] by Tweedie's formula, what else the network returned)."""


class PosteriorMethod(Protocol):
    """A posterior sampler: a frozen dataclass of its options, made once and called for each batch.

    Attributes:
        linear: the method takes linear operators alone.
        needs_noise: the method divides by noise_std, which must not be 0.
        products: products of the network's Jacobian with a vector, for each evaluation of the
            network. Each costs about one to two evaluations, and `nfe` does not count it.
    """

    linear: ClassVar[bool]

    @property
    def products(self) -> int: ...

    @property
    def needs_noise(self) -> bool: ...

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
        """Draws samples of x_0 given y. Sample i is given y[i].

        Args:
            key: sampling key. Sample i depends on `key` and first_index + i, not on its batch.
            sampler: any sampler. A method that makes steps of its own takes its noise levels.
            sde: the forward SDE, of one noise level for the whole state.
            score_fn: the score of the prior. A ScoreMethod also takes a tuple, one function for
                each evaluation of a step, as some samplers do.
            operator: a function of a batch, [B, ...] -> [B, ...], on each sample separately. It
                is made of jax.numpy, and differentiable.
            y: the measurements, of the shape of operator(x).
            shape: shape of the samples, (B, ...).
            noise_std: standard deviation of the measurement's noise; 0 for exact measurements.
            first_index: index of the first sample in the stream `key`.
            start: states to start from; None for the prior.

        Raises:
            ValueError: a measurement that does not fit the operator, the samples or the method.
        """
        ...


class Measurement(NamedTuple):
    """A measurement y = operator(x_0) + noise_std z under an SDE."""

    sde: SDE
    operator: Operator
    y: Batch
    noise_std: float


class ScoreMethod(abc.ABC):
    """Base class of methods that add an approximation of grad log p(y | x_t) to the score."""

    linear: ClassVar[bool] = True

    @property
    def needs_noise(self) -> bool:
        """True if the method divides by the variance of the measurement's noise."""
        return False

    @property
    @abc.abstractmethod
    def products(self) -> int:
        """Products of the network's Jacobian with a vector for each evaluation."""

    @abc.abstractmethod
    def guide(
        self, measured: Measurement, denoise: Denoise, x: Batch, t: PerSample
    ) -> tuple[Batch, Any]:
        """(approximation of grad log p(y | x_t = x), what else the network returned)."""

    def condition(
        self,
        sde: SDE,
        score_fn: ScoreFn,
        operator: Operator,
        y: Batch,
        noise_std: float = 0.0,
    ) -> ScoreFn:
        """The score given y: score_fn + the approximation of grad log p(y | x_t).

        Samplers do not slice y, so its batch must be theirs. A learned variance stays.

        Raises:
            ValueError: an impossible noise_std or y; when the result is called, an operator that
                does not fit x, y or the method.
        """
        y = as_measurement(sde, y, noise_std, self.needs_noise)
        measured = Measurement(sde, operator, y, noise_std)
        exact = known(noise_std) and noise_std == 0
        checked: set[tuple[int, ...]] = set()  # shapes: samplers trace a score more than once
        both = score_fn.both if isinstance(score_fn, ScoreAndVariance) else None

        def conditional(x: Array, t: Array) -> tuple[Array, Array | None]:
            if x.shape not in checked:
                check_operator(operator, x.shape, y)
                if self.linear:
                    check_linear(operator, x.shape, y if exact else None)
                checked.add(x.shape)

            def denoise(x: Array) -> tuple[Array, Any]:
                score, v = both(x, t) if both else (score_fn(x, t), None)
                return sde.denoise(x, t, score).astype(x.dtype), (score, v)

            given = measured._replace(y=y.astype(x.dtype))
            guide, (score, v) = self.guide(given, denoise, x, t)
            return score + guide, v

        if both:
            return ScoreAndVariance(conditional)  # pyright: ignore[reportArgumentType]
        return lambda x, t: conditional(x, t)[0]

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
        each = score_fn if isinstance(score_fn, tuple) else (score_fn,)
        given = tuple(self.condition(sde, fn, operator, y, noise_std) for fn in each)
        scores = given if isinstance(score_fn, tuple) else given[0]
        return sampler(key, sde, scores, shape, first_index, start=start)


def variance_given_x(sde: SDE, t: PerSample, data_std: float) -> PerSample:
    """Variance of x_0 given x_t for data N(m, data_std^2 I): r_t^2 of PiGDM, for data_std = 1."""
    level, variance = sde.noise_level(t) ** 2, data_std**2
    return variance * level / (variance + level)
