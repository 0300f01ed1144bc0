"""Guidance by the difference of two scores: classifier-free guidance and autoguidance."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from samplers.guidance.base import Both, Weight, at, guided, same
from sde_lib import ScoreFn
from sde_lib.batch import Batch, PerSample
from sde_lib.checks import check_at_least, check_positive

BoundForm = Callable[[Batch, PerSample, Array, Batch, Batch], Batch]
"""A form of samplers.guidance.FORMS with its SDE: partial(Rescale(0.7), sde), say."""


def autoguidance(
    score_fn: ScoreFn, guide_fn: ScoreFn, weight: Weight, form: BoundForm | None = None
) -> ScoreFn:
    """Autoguidance, s_g + weight (s - s_g) (Karras et al. 2024, arXiv 2406.02507, Eq. 3).

    s_g is the score of a worse model of the same distribution: smaller, trained for fewer steps, or
    on damaged data. Both have the same conditions or none. Where s and s_g err alike and s_g errs
    more, the extrapolation takes the error back.

    Args:
        score_fn: the model's score s.
        guide_fn: the score s_g of the guide model. It is not evaluated where the weight is a
            function of t and 1 for the whole batch.
        weight: guidance scale: 1 is s, 0 is s_g.
        form: a form of FORMS with its SDE; None for plain guidance.

    Raises:
        ValueError: a weight that is negative or not finite.
    """
    check_positive(or_zero=True, weight=weight)
    if same(weight, 1):
        return score_fn

    def guide(evaluate: Both, x: Array, t: Array) -> tuple[Array, Array | None]:
        own, variance = evaluate(x, t)
        w = at(weight, t, x)

        def moved() -> Array:
            made = own + (w - 1) * (own - guide_fn(x, t))
            return form(x, t, w, own, made) if form else made

        if callable(weight):
            return jax.lax.cond(jnp.any(w != 1), moved, lambda: own), variance
        return moved(), variance

    return guided(score_fn, guide)


def classifier_free(
    conditional_score_fn: Callable[[Array, Array, Any], Array],
    condition: PyTree,
    weight: Weight,
    null: PyTree = None,
    negative: PyTree = None,
    channels: int | None = None,
    form: BoundForm | None = None,
) -> ScoreFn:
    """Classifier-free guidance, s_u + weight (s_y - s_u) (Ho & Salimans 2022, arXiv 2207.12598).

    s_y is the conditional score and s_u the unconditional score of one model, trained with dropout
    of the condition. Both come from one call, with the two batches concatenated. With a negative
    condition (a negative prompt) the score is s_neg + weight (s_y - s_neg), and s_u is not
    evaluated. With both `negative` and `null` it is
    s_u + weight (s_y - s_u) - weight (s_neg - s_u), from one call with three batches.

    Args:
        conditional_score_fn: (x, t, condition) -> score; or -> (score, v) of a ScoreAndVariance.
            Then the result gives a pair too, with the v of the conditional score.
        condition: conditioning, a pytree of arrays [B, ...].
        weight: guidance scale: 1 is s_y, 0 is s_u.
        null: conditioning of s_u: a pytree like `condition`, whose leaves broadcast to its arrays.
            None is -1, no class, and needs a condition of integers.
        negative: negative conditioning, a pytree like `null`; None for no negative condition.
        channels: number of channels that are guided, the first ones. The others keep the
            conditional score. None: all are guided.
        form: a form of FORMS with its SDE, of the guided channels; None for plain guidance.

    Raises:
        ValueError: channels below 1; an empty condition; neither null nor negative with a
            condition that is not of integers; a weight that is negative or not finite; when the
            result is called, a condition and an x of different batch sizes, or an x of fewer
            channels.
    """
    check_positive(or_zero=True, weight=weight)
    if channels is not None:
        check_at_least(1, channels=channels)
    leaves, parts = jax.tree.leaves(condition), _conditions(condition, null, negative)
    unconditional = same(weight, 0) and channels is None and form is None
    if unconditional:
        parts = parts[-1:]
    elif same(weight, 1) and len(parts) == 2:
        parts = parts[:1]

    def score_of(x: Array, t: Array) -> Any:
        if channels is not None and x.shape[-1] < channels:
            raise ValueError(f"channels is {channels}, but x has {x.shape[-1]} of them")
        for leaf in leaves:
            if jnp.shape(leaf)[:1] != t.shape:
                raise ValueError(
                    f"the condition has the shape {jnp.shape(leaf)}, x {x.shape}: give one "
                    f"condition per sample, [{len(x)}, ...]"
                )
        n, w = len(parts), at(weight, t, x)
        together = jax.tree.map(lambda *part: jnp.concatenate(part), *parts)
        score = conditional_score_fn(jnp.concatenate([x] * n), jnp.concatenate([t] * n), together)
        score, *variance = score if isinstance(score, tuple) else (score,)
        bound = partial(form, x[..., :channels], t) if form else None
        result = _combined(w, channels, bound, *jnp.split(score, n))
        if variance and unconditional:
            variance = conditional_score_fn(x, t, condition)[1:]
        return (result, variance[0][: len(x)]) if variance else result

    return score_of


def _combined(
    weight: Array,
    channels: int | None,
    form: Callable[[Array, Batch, Batch], Batch] | None,
    own: Array,
    *others: Array,
) -> Array:
    """The guided score, from the conditional one and those that it is compared with."""
    result = own
    if len(others) == 1:
        result = weight * own + (1 - weight) * others[0]
    elif others:
        result = others[1] + weight * (own - others[0])
    if form:
        result = form(weight, own[..., :channels], result[..., :channels])
    if channels is None:
        return result
    return jnp.concatenate([result[..., :channels], own[..., channels:]], -1)


def _conditions(condition: PyTree, null: PyTree, negative: PyTree) -> list[PyTree]:
    """The condition, the negative one and the null one, of those that there are."""
    if not jax.tree.leaves(condition):
        raise ValueError("classifier-free guidance needs a condition: give class labels, [B], say")
    if null is None and negative is None:
        null = jax.tree.map(_no_class, condition)
    others = [other for other in (negative, null) if other is not None]
    return [condition, *(jax.tree.map(_like, condition, other) for other in others)]


def _no_class(leaf: Array) -> int:
    """The null of classes, -1. Raises ValueError for a condition that is not of integers."""
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
        raise ValueError(
            "null is None, which is -1 for classes, but the condition is not of integers: set null "
            "to the unconditional input that the model was trained with"
        )
    return -1


def _like(condition: Array, other: Any) -> Array:
    """`other` with the shape and the dtype of `condition`."""
    return jnp.broadcast_to(jnp.asarray(other, jnp.result_type(condition)), jnp.shape(condition))
