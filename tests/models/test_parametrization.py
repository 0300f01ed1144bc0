import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from closed_forms import SDES, Gaussian

import models
import sde_lib
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


DISCRETE = {"model": {"name": "ncsnpp", "num_scales": 100}, "training": {"continuous": False}}


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_discrete_labels_are_the_indices_of_the_levels(name):
    sde, probe = SDES[name], Probe()
    t = sde.inverse_log_snr(jnp.asarray(sde.levels(100), jnp.float32))
    x = jnp.ones((100, 2))
    score = models.score_fn(ml_collections.ConfigDict(DISCRETE), sde, probe, "params")(x, t)  # pyright: ignore
    np.testing.assert_allclose(probe.seen[1], np.arange(100), atol=1e-4)
    np.testing.assert_allclose(score, x if name == "ve" else -x / expand(sde.sigma(t), x))


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_a_discrete_network_has_the_exact_likelihood(name):
    """One that knows the noise of its levels, and nothing else, on Gaussian data."""
    sde, data = SDES[name], Gaussian()
    config = ml_collections.ConfigDict(DISCRETE)

    class Exact:
        def apply(self, variables, x, labels, train, rngs):
            log_snr = jnp.interp(labels, jnp.arange(100), sde.levels(100))
            t = sde.inverse_log_snr(log_snr)
            score = data.score_fn(sde)(x, t)
            return score if name == "ve" else -score * expand(sde.sigma(t), x)

    least = float(sde.inverse_log_snr(sde.levels(100).max()))
    sde = dataclasses.replace(sde, train_t_min=max(sde.train_t_min, least))
    mean, std = data.marginal(sde, sde.train_t_min)
    x = mean + std * jax.random.normal(jax.random.key(0), (64, 2))
    result = sde_lib.log_likelihood(
        jax.random.key(1),
        sde,
        models.score_fn(config, sde, Exact(), {}),
        x,
        probe="exact",  # pyright: ignore
    )
    latent, log_det = data.flow(sde, x, sde.train_t_min)
    np.testing.assert_allclose(result.latent, latent, rtol=2e-3, atol=2e-3 * sde.prior_std)
    np.testing.assert_allclose(result.log_prob, sde.prior_logp(latent) + log_det, atol=5e-3)


def test_dropout_key_reaches_the_network():
    probe = Probe()
    config = ml_collections.ConfigDict({"model": {"name": "ncsnpp"}})
    key = jax.random.key(0)
    fn = models.score_fn(config, SDES["vp"], probe, "params", True, key)  # pyright: ignore
    fn(jnp.ones((1, 2)), jnp.ones(1))
    assert probe.seen[2:] == (True, {"dropout": key})
