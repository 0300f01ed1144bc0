"""Tests of the mixed score of LSGM."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_lib
from models import Preconditioning
from models.mixing import MIXING, MixedModel

X, T = jnp.array([[0.5, -1.0], [2.0, 0.1]]), jnp.array([0.2, 0.9])


class Constant(nn.Module):
    """A network whose output is a parameter, 0.3 at the start."""

    @nn.compact
    def __call__(self, x, labels, train=False):
        return jnp.broadcast_to(self.param("output", lambda _: jnp.full((), 0.3)), x.shape)


def mixed(sde, name):
    """A mixed model, and its first parameters."""
    model = MixedModel(Constant(), Preconditioning(sde, name))
    return model, model.init(jax.random.key(0), X.shape)


@pytest.mark.parametrize("sde", [sde_lib.VP(), sde_lib.GeometricVP(), sde_lib.VE()], ids=str)
def test_without_a_share_of_the_network_the_score_is_that_of_normal_data(sde):
    model, params = mixed(sde, "epsilon")
    normal = sde_lib.GaussianMixture((1.0,), ((0.0, 0.0),), 1.0).score_fn(sde)
    params |= {MIXING: jnp.array([-100.0, 100.0])}
    score = model.score_fn(params)(X, T)
    np.testing.assert_allclose(score[:, 0], normal(X, T)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(score[:, 1], -0.3 / sde.sigma(T), rtol=1e-5)


def test_the_share_is_a_factor_of_what_the_network_predicts_as_v():
    """The zero of v is the normal score, so mixing scales v."""
    model, params = mixed(sde_lib.VP(), "v")
    score = model.score_fn(params | {MIXING: jnp.zeros(2)})(X, T)
    own = Preconditioning(sde_lib.VP(), "v").score_fn(lambda x, labels: 0.5 * 0.3 + 0 * x)
    np.testing.assert_allclose(score, own(X, T), rtol=1e-5)


@pytest.mark.thorough
def test_each_dimension_has_a_share_that_is_learned():
    model, params = mixed(sde_lib.VP(), "epsilon")
    assert params[MIXING].shape == (2,)
    gradient = jax.grad(lambda params: model.score_fn(params)(X, T)[0, 0])(params)[MIXING]
    assert gradient[0] != 0
    assert gradient[1] == 0
