import jax.numpy as jnp
import numpy as np

import samplers
import sde_lib
from experiments.benchmark import sampling
from samplers.noise_levels import levels_at


def test_guided_steps_are_those_whose_first_score_is_changed():
    sde, sampler = sde_lib.EDM(), samplers.EDM(n_steps=18)
    scores = samplers.guidance.discriminator(
        lambda x, t: jnp.zeros_like(x), sde, lambda x, t: x.sum(axis=1)
    )
    first = scores[0] if isinstance(scores, tuple) else scores
    levels = sampler.levels(sde, *levels_at(sde, [sde.t_max, sde.t_min]))[:-1]
    t = sde.inverse_noise_level(jnp.asarray(levels, jnp.float32))
    changed = np.any(np.asarray(first(jnp.ones((len(levels), 2)), t)) != 0, axis=1)
    assert 0 < sampling.n_guided(sampler, sde) == changed.sum() < len(levels)
