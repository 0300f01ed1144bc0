import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from closed_forms import SDES

import models
from sde_lib.batch import expand


class Probe:
    """A network that records what it is given and returns its input."""

    def apply(self, variables, x, labels, train, rngs):
        self.seen = variables, labels, train, rngs
        return x


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("network", ["ncsnpp", "mlp"])
def test_labels_and_scaling_are_the_published_ones(name, network):
    sde, probe = SDES[name], Probe()
    config = ml_collections.ConfigDict({"model": {"name": network}})
    x = jnp.ones((3, 4, 4, 1))
    t = jnp.array([0.1, 0.5, 1.0])
    score = models.score_fn(config, sde, probe, "params")(x, t)  # pyright: ignore
    _, labels, train, rngs = probe.seen
    assert not train
    assert rngs == {}
    if network == "mlp" or name == "ve":
        np.testing.assert_allclose(labels, sde.sigma(t))
    else:
        np.testing.assert_allclose(labels, 999 * t)
    expected = x if name == "ve" and network == "ncsnpp" else -x / expand(sde.sigma(t), x)
    np.testing.assert_allclose(score, expected)


def test_dropout_key_reaches_the_network():
    probe = Probe()
    config = ml_collections.ConfigDict({"model": {"name": "ncsnpp"}})
    key = jax.random.key(0)
    fn = models.score_fn(config, SDES["vp"], probe, "params", True, key)  # pyright: ignore
    fn(jnp.ones((1, 2)), jnp.ones(1))
    assert probe.seen[2:] == (True, {"dropout": key})
