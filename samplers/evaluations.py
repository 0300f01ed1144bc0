"""Steps of a sampler as one loop over network evaluations: the network is compiled once.

A step is a function of the score functions, which it calls in turn, each once. The loop evaluates
the network once an iteration. Where the next evaluation is, and where the step ends, is found by
running the step again with the results so far in place of the network: that is arithmetic on the
state alone, which costs little beside the network.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from samplers.base import Scores
from sde_lib import ScoreAndEnergy, ScoreAndVariance, ScoreFn, loops
from sde_lib.batch import Batch, PerSample

PAIRS = ScoreAndVariance, ScoreAndEnergy
Step = Callable[[Array, Any, tuple[ScoreFn, ...]], Any]
"""step(k, state, score_fns) -> state: the k-th step, which calls score_fns[0], [1], ... in turn."""


class Steps(NamedTuple):
    """The same step `number` times, each with this many evaluations of the network."""

    step: Step
    number: int
    evaluations: int = 1


class _AskedError(Exception):
    """A step has come to the evaluation whose result is not known yet, at the point (x, t)."""

    def __init__(self, x: Batch, t: PerSample):
        self.point = x, t


def run(score_fn: Scores, state: Any, parts: Sequence[Steps]) -> Any:
    """The state after all steps of the parts, one part after the other.

    Args:
        score_fn: the score function; or a tuple, one for the first, second, ... evaluation of each
            step, the last one for all later ones. Each function of a tuple is compiled once.
        state: pytree of arrays at the start.
        parts: the steps. The index k of a step starts from 0 in each part.
    """
    parts = [part for part in parts if part.number]
    if not parts:
        return state
    score_fns = score_fn if isinstance(score_fn, tuple) else (score_fn,)
    kinds = (kind for kind in PAIRS if all(isinstance(each, kind) for each in score_fns))
    paired = next(kinds, None)
    calls = [each.both if paired else each for each in score_fns]  # pyright: ignore
    points, ends, table = [], [], []
    for part in parts:
        table += [
            (k, len(points) + i, i, len(ends) if i == part.evaluations - 1 else len(parts))
            for k in range(part.number)
            for i in range(part.evaluations)
        ]
        points += [partial(_point, part, i, paired) for i in range(part.evaluations)]
        ends.append(partial(_end, part, paired))
    if len(points) > len(parts):
        ends.append(lambda k, state, results: state)
    columns = [jnp.asarray(column, jnp.int32) for column in zip(*table, strict=True)]

    def body(e, carry):
        state, results = carry
        k, point, i, end = (column[e] for column in columns)
        x, t = jax.lax.switch(point, points, k, state, results)
        result = jax.lax.switch(jnp.minimum(i, len(calls) - 1), calls, x, t)
        results = jax.tree.map(lambda old, new: old.at[i].set(new), results, result)
        return jax.lax.switch(end, ends, k, state, results), results

    x, _ = jax.eval_shape(points[0], 0, state, ())
    most = max(part.evaluations for part in parts)
    none = jnp.zeros((most, *x.shape), x.dtype)
    second = jnp.zeros((most, len(x)), x.dtype) if paired is ScoreAndEnergy else none
    carry = state, (none, second) if paired else none
    return loops.fori_loop(len(table), body, carry)[0]


def known_at(x: Batch, t: PerSample, score: Batch) -> ScoreFn:
    """A score function whose value is known at (x, t), and that is called nowhere else."""

    def known(other_x: Batch, other_t: PerSample) -> Batch:
        if other_x is not x or other_t is not t:
            raise ValueError(
                "a predictor or corrector evaluates the score at another point than the x and t "
                "that it gets: make it a sampler of its own (docs/extend/sampler.md)"
            )
        return score

    return known


def _point(part: Steps, i: int, paired: type | None, k: Array, state: Any, results: Any) -> Any:
    """The point (x, t) of the i-th evaluation of a part's step."""
    try:
        part.step(k, state, _known(results, i, paired))
    except _AskedError as asked:
        return asked.point
    raise _miscounted(part, i)


def _end(part: Steps, paired: type | None, k: Array, state: Any, results: Any) -> Any:
    """The state after a part's step, whose evaluations are all known."""
    try:
        return part.step(k, state, _known(results, part.evaluations, paired))
    except _AskedError:
        raise _miscounted(part, part.evaluations + 1) from None


def _miscounted(part: Steps, made: int) -> ValueError:
    return ValueError(
        f"a step makes {made} evaluations of the score, but says {part.evaluations}: set the "
        "sampler's `evaluations` to their number"
    )


def _known(results: Any, n: int, paired: type | None) -> tuple[ScoreFn, ...]:
    """Score functions that return the first n results, and one that raises _AskedError."""

    def ask(x, t):
        raise _AskedError(x, t)

    kind = paired or (lambda function: function)
    return (*(kind(lambda x, t, i=i: _row(results, i)) for i in range(n)), kind(ask))


def _row(results: Any, i: int) -> Any:
    return jax.tree.map(lambda each: each[i], results)
