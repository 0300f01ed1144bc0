import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers
import sde_lib
from sde_lib.batch import expand
from tests.closed_forms import SDES, Gaussian, Mixture

GAUSSIAN, MIXTURE = Gaussian(), Mixture()


@pytest.mark.parametrize("names", list(itertools.permutations(SDES, 2)), ids="-".join)
def test_the_score_under_another_sde_is_that_of_its_own_marginals(names):
    source, target = (SDES[name] for name in names)
    t = jnp.linspace(0.3, 0.9, 7) * target.t_max
    x = expand(target.sigma(t) + target.alpha(t), jnp.zeros((7, 2))) * jnp.array([[1.0, -0.4]])
    changed = sde_lib.change_sde(GAUSSIAN.score_fn(source), source, target)
    expected = GAUSSIAN.score_fn(target)(x, t)
    np.testing.assert_allclose(changed(x, t), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("names", [("vp", "edm"), ("edm", "vp")], ids="-".join)
def test_the_probability_flow_under_another_sde_has_the_same_endpoints(names):
    sdes = {"vp": sde_lib.VP(), "edm": sde_lib.EDM()}
    source, target = (sdes[name] for name in names)
    flow, low, high = samplers.ProbabilityFlow(rtol=1e-6, atol=1e-6), 0.01, 60.0
    y = high * jax.random.normal(jax.random.key(0), (64, 2))

    def end(sde, score_fn):
        t_high, t_low = (
            float(sde.inverse_noise_level(jnp.float32(level))) for level in (high, low)
        )
        ends = type(sde)(t_min=t_low)
        start = samplers.Start(y * sde.alpha(t_high), t_high)
        run = jax.jit(lambda key: flow(key, ends, score_fn, y.shape, start=start))
        return run(jax.random.key(0)).x / sde.alpha(t_low)

    score_fn = MIXTURE.score_fn(source)
    there = end(target, sde_lib.change_sde(score_fn, source, target))
    np.testing.assert_allclose(there, end(source, score_fn), atol=1e-4)
