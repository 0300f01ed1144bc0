"""Change of SDE: a score trained under one SDE, used under another."""

import jax

from sde_lib.batch import expand
from sde_lib.sde import SDE, ScoreFn


def change_sde(score_fn: ScoreFn, source: SDE, target: SDE) -> ScoreFn:
    """Converts the score of `source`'s marginals to the score of `target`'s, for the same data.

    At equal noise level sigma / alpha, x / alpha has the same distribution under every SDE (Karras
    et al. 2022, Section 2). So the probability flow is the same, and a network trained under VP can
    be sampled, or its likelihood computed, under VE.

    Args:
        score_fn: score of source's marginals.
        source: the SDE of training.
        target: the SDE to use instead. At noise levels that source does not reach, or at which the
            model was not trained, the result is not a score.

    Returns:
        The score function of target's marginals.
    """

    def score(x: jax.Array, t: jax.Array) -> jax.Array:
        t_source = source.inverse_noise_level(target.noise_level(t))
        ratio = expand(source.alpha(t_source) / target.alpha(t), x)
        return ratio * score_fn(ratio * x, t_source)

    return score
