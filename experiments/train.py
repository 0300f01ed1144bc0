"""Mode train: a score model, or a classifier of noisy data, to config.training.n_iters."""

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import models
from experiments import build, classifier, data, likelihood, loop, sample
from experiments import workdir as workdirs
from experiments.checkpoint import Checkpoints
from experiments.state import TrainState, init_state
from models.config import Config

LOG = logging.getLogger(__name__)


def make_train_step(
    config: Config, model: nn.Module, levels: int | None
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """step(state, batch, labels=None) -> (state, metrics): pure; labels are for a classifier.

    The result is a function of config, state and batch alone.
    """
    optimizer = build.make_optimizer(config)
    make = classifier.make_objective if models.is_classifier(config) else _make_objective
    objective = make(config, model)

    def train_step(state, batch, labels=None):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        names = ("dequantize", "flip", "loss", "dropout")
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        if config.data.random_flip and levels is not None:
            flip = jax.random.bernoulli(keys["flip"], shape=(len(batch), 1, 1, 1))
            batch = jnp.where(flip, batch[:, :, ::-1], batch)
        dequantize = config.data.uniform_dequantization
        x = data.to_model_space(config, levels, keys["dequantize"], batch, dequantize)

        loss, grads = jax.value_and_grad(objective)(state.params, keys, x, labels)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # The average starts short, so that it forgets the initial weights.
        rate = jnp.minimum(config.model.ema_rate, (1 + state.step) / (10 + state.step))
        ema_params = optax.incremental_update(params, state.ema_params, 1 - rate)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    return train_step


def _make_objective(config: Config, model: nn.Module) -> Callable[..., jax.Array]:
    """objective(params, keys, x, labels): the mean score-matching loss of a batch."""
    sde, loss = build.make_sde(config), build.make_loss(config)

    def objective(params, keys, x, labels):
        score_fn = models.score_fn(config, sde, model, params, True, keys["dropout"])
        return jnp.mean(loss(keys["loss"], sde, score_fn, x)[0])

    return objective


def run(config: Config, workdir: Path) -> None:
    """Trains, then scores the test set and draws the pictures. Resumes where a run left off.

    Raises:
        FloatingPointError: a loss or gradient is not finite; names the step.
    """
    dataset = data.load(config)
    model = models.create(config)
    is_classifier = models.is_classifier(config)
    if is_classifier:
        data.check_labels(dataset, config.data.num_classes)
    workdirs.check_owner(config, workdir)
    state = init_state(config, model)
    workdirs.claim(config, workdir)

    def snapshot(step, state):
        if not is_classifier:
            sample.save_samples(config, model, state.ema_params, step, workdir)

    with closing(Checkpoints(workdir, config.training.snapshot_freq)) as checkpoints:
        state = checkpoints.restore(like=state) or state
        n_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        LOG.info("%s: %d parameters, from step %d", workdir, n_params, state.step)
        values = (dataset.train, dataset.train_labels) if is_classifier else (dataset.train,)
        state, stopped = loop.fit(
            config.training,
            jax.jit(make_train_step(config, model, dataset.levels), donate_argnums=0),
            state,
            data.batches(values, config.seed, config.training.batch_size, int(state.step)),
            checkpoints,
            workdir,
            snapshot,
        )
        checkpoints.save(int(state.step), state)
    if stopped:
        LOG.info("stopped and saved at step %d: run the same command to go on", state.step)
        return
    params, step = state.ema_params, int(state.step)
    if is_classifier:
        print(classifier.report(config, model, params, dataset))
    else:
        print(f"test bits/dim {likelihood.bits_per_dim(config, model, params, dataset)}")
        for path in sample.save_pictures(config, model, params, step, workdir):
            print(path)
    print(sample.save_loss_curve(config, step, workdir))
