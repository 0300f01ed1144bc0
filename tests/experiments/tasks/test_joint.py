"""Tests of the joint training of LSGM and INDM, against the VP model and exact likelihoods."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_configs import points_config

from configs import points
from experiments.build import tasks
from experiments.build.components import optimization
from experiments.data.dataset import Dataset
from experiments.data.sources.points import MIXTURE
from experiments.evaluation import bound
from experiments.pipeline.codec import CODEC
from experiments.training.state import abstract_state, init_state
from experiments.training.step import make_train_step

X = np.random.RandomState(0).randn(8, 2).astype(np.float32)
N_STEPS = 3000
TRAINED = {
    "training.batch_size": 512,
    "model.nf": 64,
    "model.variance_min": 1e-3,
    "model.ema_rate": 0.995,
    "optim.lr": 3e-3,
}
DATA = Dataset(X, X, levels=None)
NO_FOLDER = Path("no folder")


def config(latent, **changes):
    """A tiny model of points under VP, trained by the cross-entropy, with a codec or without."""
    made = points_config()
    made.objective.name = "cross_entropy"
    made.sampling.update(method="euler", n_steps=4)
    made.training.update(batch_size=8, importance_sampling=True)
    made.latent.update({"name": latent, **changes})
    made.latent.nf = 8 if latent else None
    return made


def trained(made, n_steps):
    """The task, its state after some steps, and their losses."""
    task, mesh = tasks.task(made), optimization.mesh(made)
    state = init_state(task, made.seed, abstract_state(task, made.seed, mesh))
    step = jax.jit(make_train_step(task, optimization.training(made), mesh))
    losses = []
    for _ in range(n_steps):
        state, metrics = step(state, X[None])
        losses.append(float(metrics["loss"]))
    return task, state, losses


@pytest.fixture(scope="module")
def vp():
    return trained(config(""), 3)


@pytest.fixture(scope="module")
def no_layers():
    return trained(config("indm", num_layers=0), 3)


@pytest.mark.thorough
def test_indm_with_the_identity_is_trained_like_the_vp_model_bit_for_bit(vp, no_layers):
    (_, state, losses), (_, other, its_losses) = vp, no_layers
    params = {name: value for name, value in other.params.items() if name != CODEC}
    assert losses == its_losses
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


@pytest.mark.thorough
def test_a_frozen_flow_stays_the_identity(vp):
    made = config("indm", num_layers=2)
    made.optim.freeze = (f"{CODEC}/.*",)
    _, state, losses = trained(made, 3)
    params = {name: value for name, value in state.params.items() if name != CODEC}
    np.testing.assert_allclose(losses, vp[2], rtol=1e-6)
    same = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)  # noqa: E731
    jax.tree.map(same, params, vp[1].params)


@pytest.mark.thorough
def test_indm_with_the_identity_has_the_vp_models_samples_and_likelihoods(vp, no_layers):
    ours, theirs = (
        task.trained(state.params, 3, DATA, NO_FOLDER) for task, state, _ in (vp, no_layers)
    )
    np.testing.assert_array_equal(ours.sample(4), theirs.sample(4))
    found = [model.log_likelihood(X[:2]).log_prob for model in (ours, theirs)]
    np.testing.assert_array_equal(*found)


@pytest.mark.thorough
@pytest.mark.parametrize("latent", ["lsgm", "indm"])
def test_gradients_reach_all_parts_and_metrics_are_those_of_the_loss(latent):
    task = tasks.task(config(latent, **{"lsgm": {"num_res_blocks": 0}}.get(latent, {})))

    @jax.jit
    def run(key):
        keys = dict.fromkeys(("loss", "dropout", "labels"), key)
        params = jax.tree.map(lambda leaf: leaf + 0.1, task.init(key))  # away from zeros
        loss = lambda params: task.loss(params, keys, None, 0, X, {})[0]  # noqa: E731
        return jax.value_and_grad(loss)(params), task.metrics(params, key, (X, {}), 0)

    (loss, gradient), metrics = run(jax.random.key(0))
    for part in (CODEC, "Dense_0", *(("mixing",) if latent == "lsgm" else ())):
        assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient[part]))
    assert np.isfinite(loss)
    assert metrics.keys() == {"loss", "t", "error"}
    assert np.isfinite(metrics["loss"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("latent", ["lsgm", "indm"])
def test_bounds_are_above_the_exact_likelihood_and_near_it(latent):
    """Of eight Gaussians, in bits/dim: from the bound of each test point less its exact value."""
    made = points.get_config(latent)
    made.update_from_flattened_dict(TRAINED)
    task, mesh = tasks.task(made), optimization.mesh(made)
    step = make_train_step(task, optimization.training(made), mesh)
    state = init_state(task, 0, abstract_state(task, 0, mesh))

    @jax.jit
    def run(state, key):
        def one(state, key):
            x = MIXTURE.sample(key, made.training.batch_size)
            return step(state, x[None])[0], None

        return jax.lax.scan(one, state, jax.random.split(key, N_STEPS))[0]

    params = run(state, jax.random.key(0)).ema_params
    x = np.asarray(MIXTURE.sample(jax.random.key(1), 1000))
    exact = -np.asarray(MIXTURE.log_prob(jnp.asarray(x))) / (2 * math.log(2))
    model = task.trained(params, 0, DATA, NO_FOLDER).replace(bound_steps=50)
    by_flow = model.bits_per_dim(x, accuracy=0.01).each - exact
    by_denoising = np.sum([*bound.cross_entropy(model, (x, {})).values()], axis=0) - exact
    for excess in (by_flow, by_denoising):
        error = excess.std() / math.sqrt(len(x))
        assert -2 * error < excess.mean() < 0.05 + error
