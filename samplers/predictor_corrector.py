"""Predictor-corrector sampling (Song et al. 2021, Section 4.2 and Appendix G).

A predictor steps from t to t - dt; a corrector is one step of Langevin dynamics at fixed t. Both
are pure functions: the noise z is an argument. Both return (x, x_mean), where x_mean is x without
the noise of the step. Times t are [B]; x, z and the results are [B, ...].
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray

from samplers import evaluations
from samplers.base import Samples, Start, check_frames, starting_point
from samplers.evaluations import Steps
from samplers.metropolis import Visit, accept, choose
from samplers.noise_levels import Levels, levels_at
from sde_lib import SDE, ScoreFn, check_score_fn
from sde_lib.batch import Batch, PerSample, expand, fold_in, normal, numpy_of, sample_keys
from sde_lib.checks import check_at_least, check_name, check_positive, check_types, known
from sde_lib.sde import score_and_energy


def euler_maruyama(
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    t: PerSample,
    dt: float,
    z: Batch,
    probability_flow: bool = False,
) -> tuple[Batch, Batch]:
    """One Euler-Maruyama step of length dt > 0 of the reverse SDE, or of the probability flow."""
    score = score_fn(x, t)
    if probability_flow:
        x_mean = x - dt * sde.flow_drift(x, t, score)
        return x_mean, x_mean
    x_mean = x - dt * sde.reverse_drift(x, t, score)
    return x_mean + expand(sde.diffusion(t) * jnp.sqrt(dt), x) * sde.noisy(z), x_mean


def reverse_diffusion(
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    t: PerSample,
    dt: float,
    z: Batch,
    probability_flow: bool = False,
) -> tuple[Batch, Batch]:
    """One reverse-diffusion step for the chain of t_max / dt steps (Song et al. 2021, Eq. 46)."""
    f, g = sde.discretize(x, t, sde.t_max / dt)
    drift = f - (0.5 if probability_flow else 1.0) * expand(g**2, x) * sde.noisy(score_fn(x, t))
    x_mean = x - drift
    return (x_mean if probability_flow else x_mean + expand(g, x) * sde.noisy(z)), x_mean


def ancestral_sampling(
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    t: PerSample,
    dt: float,
    z: Batch,
    probability_flow: bool = False,
) -> tuple[Batch, Batch]:
    """One ancestral step of the reverse Markov chain: DDPM under VP, SMLD under VE (App. F).

    Raises ValueError if probability_flow is True: the chain has no deterministic form.
    """
    if probability_flow:
        raise ValueError("ancestral_sampling has no probability flow: take 'reverse_diffusion'")
    a, v, std = sde.ancestral(t, sde.t_max / dt)
    x_mean = (x + expand(v, x) * score_fn(x, t)) / expand(a, x)
    return x_mean + expand(std, x) * z, x_mean


def langevin(
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    t: PerSample,
    z: Batch,
    snr: float,
    norm: Literal["sample", "batch"] = "sample",
) -> tuple[Batch, Batch]:
    """One Langevin step, whose size keeps the ratio of score norm to noise norm at `snr`.

    norm = "batch" is the published step, 2 alpha (snr |z| / |score|)^2, with both norms averaged
    over the batch (Song et al. 2021, Algorithms 4 and 5). It makes a sample depend on its batch.

    norm = "sample" takes the score norm of each sample, and the root mean square of |z| in place of
    |z|; it limits the step to between half and all of ald's. A step that varies with z or freely
    with x would bias the result (variances in the plane by 40%). One that grows where the score is
    nearly 0 throws samples far away; one that shrinks where it is large never brings them back.
    """
    score = score_fn(x, t)
    if norm == "batch":
        ratio = jnp.full_like(t, jnp.mean(_norm(z)) / jnp.mean(_norm(score)))
    else:
        sigma = sde.sigma(t)
        ratio = math.sqrt(math.prod(x.shape[1:])) / _norm(score)
        ratio = jnp.clip(ratio, math.sqrt(0.5) * sigma, sigma)
    return langevin_step(x, score, 2 * _chain_alpha(sde, t) * (snr * ratio) ** 2, z)


def ald(
    sde: SDE, score_fn: ScoreFn, x: Batch, t: PerSample, z: Batch, snr: float
) -> tuple[Batch, Batch]:
    """One step of annealed Langevin dynamics, of the size 2 alpha (snr sigma)^2."""
    return langevin_step(x, score_fn(x, t), _ald_size(sde, t, snr), z)


def mala(
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    t: PerSample,
    z: Batch,
    snr: float,
    u: PerSample,
) -> tuple[Batch, Batch]:
    """One step of ald, accepted or not, so that p_t stays as it is (samplers/metropolis.py).

    The score needs its energy (ScoreAndEnergy). u, [B], is uniform in [0, 1]. Evaluates the model
    at x and at the proposal. Both results are the next state.
    """
    both, step = score_and_energy(score_fn), _ald_size(sde, t, snr)
    before = Visit(x, *both(x, t))
    proposal, _ = langevin_step(x, before.score, step, z)
    after = accept(before, Visit(proposal, *both(proposal, t)), step, u)
    return after.x, after.x


def langevin_step(x: Batch, score: Batch, step: PerSample, z: Batch) -> tuple[Batch, Batch]:
    """One Langevin step of given size: x + step score + sqrt(2 step) z, with its mean."""
    x_mean = x + expand(step, x) * score
    return x_mean + expand(jnp.sqrt(2 * step), x) * z, x_mean


def _ald_size(sde: SDE, t: PerSample, snr: float) -> PerSample:
    return 2 * _chain_alpha(sde, t) * (snr * sde.sigma(t)) ** 2


def _norm(x: Batch) -> PerSample:
    """Euclidean norm of each sample."""
    return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim))))


def _chain_alpha(sde: SDE, t: PerSample) -> PerSample:
    """The alpha of the correctors: 1 - beta_k of the chain of 1000 steps under VP, 1 under VE."""
    return sde.ancestral(t, 1000)[0] ** 2


def _stay(sde: SDE, score_fn: ScoreFn, x: Batch, *_, **__) -> tuple[Batch, Batch]:
    """The predictor and corrector "none": leaves x unchanged, without an evaluation."""
    return x, x


PREDICTORS = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral_sampling": ancestral_sampling,
    "none": _stay,
}
CORRECTORS = {"langevin": langevin, "ald": ald, "none": _stay}
ACCEPT = 1 << 24  # folded into the key of an evaluation to draw u


def correctors() -> dict[str, Callable]:
    """CORRECTORS, and "mala", which takes an energy and u in addition."""
    return {**CORRECTORS, "mala": mala}


@dataclasses.dataclass(frozen=True)
class PredictorCorrector:
    """Predictor-corrector sampler on n_steps steps of t: even ones, but those of EDM under EDM.

    At each time it makes n_corrector_steps of the corrector, then one step of the predictor.

    Attributes:
        n_steps: number of times at which the corrector runs. With `denoise` the last of them is
            t_min, where the evaluation is for Tweedie's formula in place of the predictor, as in
            the published sampler. Without it the last predictor step ends at t_min. Either way a
            sample costs n_steps (1 + n_corrector_steps) evaluations, less those of a predictor or
            corrector that is "none". With "mala" it costs them whatever the predictor: the last
            one tells whether the last proposal is accepted, and the predictor uses it too.
        predictor: a name in PREDICTORS.
        corrector: a name in CORRECTORS, or "mala" for a score_fn with its energy (ScoreAndEnergy).
        snr: signal-to-noise ratio of the corrector.
        n_corrector_steps: number of corrector steps at each time.
        denoise: return E[x_0 | x] at t_min in place of x.
        probability_flow: if True the predictor follows the probability flow, without noise.
        norm: "sample" or "batch", the norms in the step size of `langevin`.

    Raises:
        ValueError: an unknown name, a number out of range, "mala" without its steps, or
            probability_flow with "ancestral_sampling".
    """

    n_steps: int = 1000
    predictor: str = "reverse_diffusion"
    corrector: str = "langevin"
    snr: float = 0.16
    n_corrector_steps: int = 1
    denoise: bool = True
    probability_flow: bool = False
    norm: Literal["sample", "batch"] = "sample"

    def __post_init__(self):
        check_types(self)
        check_name("predictor", self.predictor, PREDICTORS)
        check_name("corrector", self.corrector, correctors())
        check_name("norm", self.norm, ("sample", "batch"))
        check_at_least(2 if self.denoise else 1, n_steps=self.n_steps)
        check_at_least(0, n_corrector_steps=self.n_corrector_steps)
        check_positive(snr=self.snr)
        if self.corrector == "mala":
            check_at_least(1, n_corrector_steps=self.n_corrector_steps)
        if self.probability_flow and self.predictor == "ancestral_sampling":
            raise ValueError("ancestral_sampling has no probability flow: take 'reverse_diffusion'")

    @property
    def noise_share(self) -> float | None:
        corrects = self.corrector != "none" or self.predictor == "none"
        return None if corrects else 0.0 if self.probability_flow else 1.0

    def own_levels(self, sde: SDE) -> Levels:
        """Noise levels at the times between which the steps from the prior are."""
        return levels_at(sde, sde.times(sde.t_max, sde.t_min, self.n_steps - self.denoise))

    def from_levels(self, levels: Levels) -> Self:
        """A copy with as many steps as there are between these levels, the last of own_levels."""
        return dataclasses.replace(self, n_steps=len(levels) - 1 + self.denoise)

    @property
    def _predicts(self) -> bool:
        """True if there is an evaluation after those of the corrector, at each time."""
        return self.predictor != "none" or self.corrector == "mala"

    @property
    def nfe(self) -> int:
        """Number of network evaluations per sample."""
        n_predictor = self._predicts * (self.n_steps - self.denoise)
        n_corrector = 0 if self.corrector == "none" else self.n_steps * self.n_corrector_steps
        return n_predictor + n_corrector + self.denoise

    def __call__(
        self,
        key: PRNGKeyArray,
        sde: SDE,
        score_fn: ScoreFn,
        shape: Sequence[int],
        first_index: int | Array = 0,
        n_frames: int = 0,
        start: Start | None = None,
    ) -> Samples:
        """Draws samples in one compiled loop.

        Args:
            key: sampling key. Sample i depends on `key` and first_index + i, and not on its batch
                (except with norm="batch").
            sde: the forward SDE.
            score_fn: score of the noised data, (x, t) -> score.
            shape: shape of the samples, (B, ...).
            first_index: index of the first sample in the stream `key`.
            n_frames: number of intermediate states to record, at most one a step.
            start: states to start from; None for the prior. The steps divide the time from there.

        Raises:
            ValueError: a score_fn or start of the wrong shape, more frames than steps, or a
                score_fn without an energy for "mala".
        """
        check_score_fn(score_fn, shape)
        if self.corrector == "mala":
            score_and_energy(score_fn)
        n_moves = self.n_steps - self.denoise
        check_frames(n_frames, n_moves)
        x, t_start = starting_point(key, sde, shape, first_index, start)
        times = sde.times(t_start, sde.t_min, n_moves)
        dt, lengths = (t_start - sde.t_min) / n_moves, -numpy_of(times).diff(times)
        even = known(times) and np.ptp(lengths) < 1e-9 * sde.t_max
        starts, lengths = (jnp.asarray(a, float) for a in (times[:-1], lengths))
        keys = sample_keys(key, shape[0], first_index)
        n_correct = 0 if self.corrector == "none" else self.n_corrector_steps
        each = n_correct + self._predicts  # evaluations at each time

        def update(k, i, x, visit, t, score_fn, then):
            """x after the i-th evaluation at the k-th time: the corrector's, or that for `then`."""
            keys_k = fold_in(keys, k)
            if visit is None:
                known = evaluations.known_at(x, t, score_fn(x, t))
            else:
                visit = self._visited(sde, keys_k, i, x, visit, t, score_fn)
                x, known = visit.x, evaluations.known_at(visit.x, t, visit.score)
            z = normal(fold_in(keys_k, (i + 1) % (n_correct + 1)), shape)
            if not n_correct:
                return then(x, t, z, known), visit
            x = jax.lax.cond(
                i < n_correct,
                lambda: self._correct(sde, known, x, t, z),
                lambda: then(x, t, z, known),
            )
            return x, visit

        def step(e, state, score_fns):
            x, visit, path = state
            k, i = jnp.divmod(e, each)
            now, length = (t_start - k * dt, dt) if even else (starts[k], lengths[k])

            def predict(x, t, z, known):
                predictor, flow = PREDICTORS[self.predictor], self.probability_flow
                return predictor(sde, known, x, t, length, z, probability_flow=flow)[0]

            t = jnp.full(shape[0], now)
            x, visit = update(k, i, x, visit, t, score_fns[0], predict)
            return x, visit, path.at[k * n_frames // n_moves].set(x) if n_frames else path

        def last(i, state, score_fns):
            def denoise(x, t, z, known):
                return sde.denoise(x, t, known(x, t))

            x, visit, path = state
            t = jnp.full(shape[0], sde.t_min)
            return *update(n_moves, i, x, visit, t, score_fns[0], denoise), path

        visit = Visit(x, x, jnp.zeros(shape[0])) if self.corrector == "mala" else None
        state = x, visit, jnp.broadcast_to(x, (n_frames, *shape))
        parts = Steps(step, n_moves * each), Steps(last, (n_correct + 1) * self.denoise)
        x, _, path = evaluations.run(score_fn, state, parts)
        return Samples(x, self.nfe, path)

    def _visited(
        self,
        sde: SDE,
        keys: Key[Array, " batch"],
        i: Array,
        x: Batch,
        before: Visit,
        t: PerSample,
        score_fn: ScoreFn,
    ) -> Visit:
        """The state of the Metropolis chain at t after the evaluation at x, its i-th proposal.

        x itself begins the chain if i is 0.
        """
        proposal = Visit(x, *score_and_energy(score_fn)(x, t))
        u = jax.vmap(jax.random.uniform)(fold_in(fold_in(keys, i), ACCEPT))
        after = accept(before, proposal, _ald_size(sde, t, self.snr), u)
        return choose(jnp.asarray(i == 0), proposal, after)

    def _correct(self, sde: SDE, score_fn: ScoreFn, x: Batch, t: PerSample, z: Batch) -> Batch:
        """x after one step of the corrector; the proposal of "mala"."""
        corrector = CORRECTORS["ald" if self.corrector == "mala" else self.corrector]
        options = {"norm": self.norm} if self.corrector == "langevin" else {}
        return corrector(sde, score_fn, x, t, z, self.snr, **options)[0]
