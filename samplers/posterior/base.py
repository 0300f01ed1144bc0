"""The contract of posterior samplers: one way to call them all, and the part that scores share.

A measurement is y = operator(x_0) + noise_std z, with standard normal z. A method draws samples of
x_0 given y from the score of x_0 without y:

    samples = method(key, sampler, sde, score_fn, operator, y, shape, noise_std)

A ScoreMethod approximates grad log p(y | x_t). Its `condition` turns the score into the score given
y, for any sampler, and composes with guidance. The other methods change the sampling itself.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
from jaxtyping import Array, PRNGKeyArray

from samplers.base import Samples, Scores, Start
from samplers.posterior.checks import Operator, as_measurement, check_linear, check_operator
from sde_lib import SDE, ScoreAndVariance, ScoreFn
from sde_lib.batch import Batch, PerSample
from sde_lib.checks import known

Denoise = Callable[[Batch], tuple[Batch, Any]]
"""denoise(x) = (E[x_0 | x_t = x] by Tweedie's formula, what else the network returned)."""


class Measurement(NamedTuple):
    """A measurement y = operator(x_0) + noise_std z under an SDE."""

    sde: SDE
    operator: Operator
    y: Batch
    noise_std: float

    def of_type(self, dtype: Any) -> "Measurement":
        """The measurement in another precision, also of an operator with one of its own."""
        operator, y = self.operator, self.y.astype(dtype)
        return self._replace(operator=lambda x: operator(x).astype(x.dtype), y=y)


class Draw(NamedTuple):
    """The samples that a method is to draw, by the arguments of PosteriorMethod."""

    key: PRNGKeyArray
    sampler: Any
    shape: Sequence[int]
    first_index: int | Array = 0
    start: Start | None = None

    def by(self, sde: SDE, scores: Scores) -> Samples:
        """The sampler's samples with these scores."""
        return self.sampler(self.key, sde, scores, self.shape, self.first_index, start=self.start)


class PosteriorMethod(abc.ABC):
    """A posterior sampler: a frozen dataclass of its options, made once and called for each batch.

    A method implements `draw`, and `products`.

    Attributes:
        linear: the method takes linear operators alone.
    """

    linear: ClassVar[bool] = False

    @property
    def needs_noise(self) -> bool:
        """True for a method that divides by noise_std, which must not be 0 then."""
        return False

    @property
    @abc.abstractmethod
    def products(self) -> int:
        """Products of the network's Jacobian with a vector, for each evaluation of the network.

        Each costs about one to two evaluations, and `nfe` does not count it.
        """

    @abc.abstractmethod
    def draw(self, measured: Measurement, score_fn: Scores, draw: Draw) -> Samples:
        """Draws the samples of a call, for a measurement whose numbers are checked."""

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
        measured = self.measured(sde, operator, y, noise_std)
        return self.draw(measured, score_fn, Draw(key, sampler, tuple(shape), first_index, start))

    def measured(self, sde: SDE, operator: Operator, y: Any, noise_std: float) -> Measurement:
        """The measurement. Raises ValueError for an impossible y or noise_std."""
        y = as_measurement(sde, y, noise_std, self.needs_noise)
        return Measurement(sde, operator, y, noise_std)

    def check_operator(self, measured: Measurement, shape: Sequence[int]) -> None:
        """Raises ValueError for an operator that does not fit x of this shape, y or the method."""
        _, operator, y, noise_std = measured
        check_operator(operator, shape, y)
        if self.linear:
            exact = known(noise_std) and noise_std == 0
            check_linear(operator, shape, y if exact else None)


class ScoreMethod(PosteriorMethod):
    """Base class of methods that add an approximation of grad log p(y | x_t) to the score."""

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
        measured = self.measured(sde, operator, y, noise_std)
        checked: set[tuple[int, ...]] = set()  # shapes: samplers trace a score more than once
        both = score_fn.both if isinstance(score_fn, ScoreAndVariance) else None

        def conditional(x: Array, t: Array) -> tuple[Array, Array | None]:
            if x.shape not in checked:
                self.check_operator(measured, x.shape)
                checked.add(x.shape)

            def denoise(x: Array) -> tuple[Array, Any]:
                score, v = both(x, t) if both else (score_fn(x, t), None)
                return sde.denoise(x, t, score).astype(x.dtype), (score, v)

            guide, (score, v) = self.guide(measured.of_type(x.dtype), denoise, x, t)
            return score + guide, v

        if both:
            return ScoreAndVariance(conditional)  # pyright: ignore[reportArgumentType]
        return lambda x, t: conditional(x, t)[0]

    def draw(self, measured: Measurement, score_fn: Scores, draw: Draw) -> Samples:
        """The sampler's samples by the score given y."""
        given = jax.tree.map(lambda fn: self.condition(measured.sde, fn, *measured[1:]), score_fn)
        return draw.by(measured.sde, given)


def variance_given_x(sde: SDE, t: PerSample, data_std: float) -> PerSample:
    """Variance of x_0 given x_t for data N(m, data_std^2 I): r_t^2 of PiGDM, for data_std = 1."""
    level, variance = sde.noise_level(t) ** 2, data_std**2
    return variance * level / (variance + level)
