import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from configs import digits
from experiments.build import tasks
from experiments.build.components import optimization
from experiments.training import state as states
from experiments.training.step import make_train_step
from sde_lib import loss_history


def learned():
    config = digits.get_config("vlb")
    config.model.update(nf=4, ch_mult=(1,), attn_resolutions=(), num_scales=30)
    config.sampling.n_steps, config.training.batch_size = 30, 8
    return config


class Two(nn.Module):
    """A network of two weights: of the noise, and of the variance."""

    learned_variance: bool = False

    @nn.compact
    def __call__(self, x, labels, train=False):
        a, b = (self.param(name, nn.initializers.zeros, ()) for name in ("noise", "variance"))
        return jnp.concatenate([a * x, b * jnp.ones_like(x)], -1)


@pytest.mark.thorough
def test_a_step_fills_the_history_and_teaches_the_variance(monkeypatch):
    monkeypatch.setitem(models.MODELS, "two", Two)
    config = learned()
    config.model.name, config.optim.warmup, config.objective.loss_history = "two", 0, 2
    task, mesh = tasks.task(config), optimization.mesh(config)
    abstract = states.abstract_state(task, config.seed, mesh)
    before = states.init_state(task, config.seed, abstract)
    step = jax.jit(make_train_step(task, optimization.training(config), mesh))
    batch = jax.random.randint(jax.random.key(0), (1, 8, 8, 8, 1), 0, 17).astype(jnp.uint8)
    after, metrics = step(before, batch)
    _, history = after.opt_state
    assert np.isfinite(metrics["loss"])
    assert int(history.counts.sum()) == 8
    assert np.count_nonzero(history.terms) == 8
    assert all(abs(float(weight)) > 1e-4 for weight in after.params.values())
    params = {"noise": jnp.float32(2), "variance": jnp.float32(-1)}
    model = task.model.model
    score_fn = model.score_fn(params)
    t, x = jnp.array([0.3, 1.0]), jnp.ones((2, 8, 8, 1))
    score, v = score_fn.both(x, t)
    np.testing.assert_array_equal(v, 0)  # beta-tilde's
    np.testing.assert_allclose(score[:, 0, 0, 0], -2 / model.sde.sigma(t), rtol=1e-6)
    np.testing.assert_array_equal(score_fn(x, t), score)

    # A full history that has known one level's term alone.
    terms = jnp.zeros((30, 2)).at[7].set(1.0)
    full = loss_history.LossHistory(terms, jnp.full(30, 2))
    again, _ = step(after._replace(opt_state=(after.opt_state[0], full)), batch)
    assert int(again.opt_state[1].counts[7]) == 2 + 8


@pytest.mark.parametrize("name", ["ncsnpp", "adm", "ddpm"])
def test_networks_have_twice_the_channels(name):
    config = learned()
    config.model.name, config.model.nf = name, 8
    model, x = models.create(config), jnp.zeros((1, 8, 8, 1))
    shape = jax.eval_shape(model.init_with_output, jax.random.key(0), x, jnp.ones(1))[0].shape
    assert shape == (1, 8, 8, 2)
