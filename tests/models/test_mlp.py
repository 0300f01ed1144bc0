import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
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
