"""One model under another SDE."""

import jax

from sde_lib.batch import expand
from sde_lib.sde import SDE, ScoreFn


def change_sde(score_fn: ScoreFn, source: SDE, target: SDE) -> ScoreFn:
    """The score under `target` from the score under `source`, for the same data.

    At the same noise level sigma / alpha, x / alpha has one distribution under every SDE (Karras et
    al. 2022, Section 2). So both have one probability flow, and a network trained under VP can be
    sampled, or scored, under VE.

    Args:
        score_fn: the score of source's marginals.
        source: the SDE that it was trained under.
        target: the SDE that it is to be used under. At noise levels that source has at no time,
            or that it was not trained at, the result is not the score.
    """

    def score(x: jax.Array, t: jax.Array) -> jax.Array:
        t_source = source.inverse_noise_level(target.noise_level(t))
        ratio = expand(source.alpha(t_source) / target.alpha(t), x)
        return ratio * score_fn(ratio * x, t_source)

    return score
