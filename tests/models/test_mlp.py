import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import weights
from closed_forms import SDES, Mixture

import models
import sde_lib
from configs import points
from models.mlp import MLP


@pytest.mark.slow
def test_it_learns_the_score_of_a_mixture():
    """Trained for seconds, its error is within a tenth of the noise's own, at every noise level."""
    sde, mixture, config = SDES["vp"], Mixture(), points.get_config()
    network = MLP(nf=64)
    params = network.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.ones(1))["params"]
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, 800))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, key):
        def loss_fn(params):
            score_fn = models.score_fn(config, sde, network, params)
            x = mixture.sample(key, 512)
            losses, _ = sde_lib.denoising_score_matching(key, sde, score_fn, x, stratified=True)
            return losses.mean()

        updates, state = optimizer.update(jax.grad(loss_fn)(params), state)
        return optax.apply_updates(params, updates), state

    for i in range(800):
        params, state = step(params, state, jax.random.key(i))

    for time in (0.05, 0.3, 0.8):
        t = jnp.full(4096, time)
        z = jax.random.normal(jax.random.key(1), (4096, 2))
        mean, std = sde.marginal(mixture.sample(jax.random.key(2), 4096), t)
        x = mean + std[:, None] * z
        learned = models.score_fn(config, sde, network, params)(x, t)
        error = std[:, None] * (learned - mixture.score_fn(sde)(x, t))
        assert np.mean(error**2) < 0.02


@pytest.mark.thorough
def test_new_fields_keep_the_parameters_of_earlier_networks():
    x, t = jnp.ones((3, 50)), jnp.ones(3)
    plain = MLP(nf=8).init(jax.random.key(0), x, t)
    dropped = MLP(nf=8, dropout=0.3).init(jax.random.key(0), x, t)
    assert jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, dropped)
    assert MLP(nf=8).apply(plain, x, t).shape == x.shape


def test_it_is_conditioned_on_classes():
    network, (x, t) = MLP(nf=8, num_classes=3), (jnp.ones((4, 5)), jnp.ones(4))
    params = weights.drawn(network.init(jax.random.key(0), x, t))
    out = network.apply(params, x, t, class_labels=jnp.array([0, 1, 1, -1]))
    np.testing.assert_array_equal(out[1], out[2])
    assert len(np.unique(np.asarray(out)[:, 0])) == 3
    with pytest.raises(ValueError, match="class_labels"):
        network.apply(params, x, t)


@pytest.mark.thorough
def test_dropout_is_of_training_alone():
    network, (x, t) = MLP(nf=32, dropout=0.5), (jnp.ones((4, 5)), jnp.ones(4))
    params = weights.drawn(network.init(jax.random.key(0), x, t))
    rngs = {"dropout": jax.random.key(1)}
    trained = network.apply(params, x, t, True, rngs=rngs)
    assert not np.allclose(trained[0], trained[1])
    np.testing.assert_array_equal(*network.apply(params, x, t)[:2])
