import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers
import sde_lib
from sde_lib.batch import expand

GAUSSIAN, MIXTURE = Gaussian(), Mixture()


@pytest.mark.parametrize("names", list(itertools.permutations(SDES, 2)), ids="-".join)
def test_the_score_under_another_sde_is_that_of_its_own_marginals(names):
    source, target = (SDES[name] for name in names)
    t = jnp.linspace(0.3, 0.9, 7) * target.t_max

    @jax.jit
    def scores(t):
        x = expand(target.sigma(t) + target.alpha(t), jnp.zeros((7, 2))) * jnp.array([[1.0, -0.4]])
        changed = sde_lib.change_sde(GAUSSIAN.score_fn(source), source, target)
        return changed(x, t), GAUSSIAN.score_fn(target)(x, t)

    changed, expected = scores(t)
    np.testing.assert_allclose(changed, expected, rtol=2e-5, atol=1e-6)


LOW, HIGH, FLOWING = 0.01, 60.0, {"vp": sde_lib.VP(), "edm": sde_lib.EDM()}


@functools.cache
def flow_end(name, source):
    """x / alpha at LOW, where the flow under SDE `name` goes from HIGH; the score is `source`'s."""
    sde, flow = FLOWING[name], samplers.ProbabilityFlow(rtol=1e-6, atol=1e-6)
    high, low = (float(sde.inverse_noise_level(jnp.float32(level))) for level in (HIGH, LOW))
    score_fn = MIXTURE.score_fn(FLOWING[source])
    if source != name:
        score_fn = sde_lib.change_sde(score_fn, FLOWING[source], sde)

    @jax.jit
    def run(key):
        y = HIGH * jax.random.normal(key, (64, 2))
        start = samplers.Start(y * sde.alpha(high), high)
        return flow(key, type(sde)(t_min=low), score_fn, y.shape, start=start).x / sde.alpha(low)

    return run(jax.random.key(0))


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "source"), [("edm", "vp"), ("vp", "edm")])
def test_the_probability_flow_under_another_sde_has_the_same_endpoints(name, source):
    """The flow of y = x / alpha is the same under every SDE; the reference is VP's own score."""
    np.testing.assert_allclose(flow_end(name, source), flow_end("vp", "vp"), atol=1e-4)
