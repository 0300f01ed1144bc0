"""Mode train: a score model, a classifier or an autoencoder, to config.training.n_iters."""

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import models
from experiments import build
from experiments.data import augment, confidence, data, latent
from experiments.evaluation import held_out, likelihood
from experiments.pipeline import cascade, conditions, sample
from experiments.runs import model_card, sharding
from experiments.runs import workdir as workdirs
from experiments.tasks import autoencoder, classifier, discriminator
from experiments.training import loop
from experiments.training.checkpoint import Checkpoints
from experiments.training.state import TrainState, abstract_state
from models.config import Config
from sde_lib import loss_history
from sde_lib.checks import check_at_least

LOG = logging.getLogger(__name__)
HUGE = 1e5  # in place of an infinite gradient, with config.optim.nan_to_num (EDM's number)


def make_train_step(
    config: Config, model: nn.Module, levels: int | None, mesh: Mesh | None = None
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """step(state, batch, told={}) -> (state, metrics): pure; told are conditions of the samples.

    The result is a function of config, state and batch alone. batch is [microbatches, samples in
    each, ...]. Where the loss, the gradient or new weights are not finite, nothing but state.step
    changes; with config.optim.nan_to_num, a gradient is made finite first. The mesh is
    sharding.make_mesh(config), unless another is given.
    """
    optimizer, mesh = build.make_optimizer(config), mesh or sharding.make_mesh(config)
    n, has_history = config.training.n_microbatches, config.training.loss_history > 0
    objective = _make_objective(config, model, levels)
    loss_and_gradient = _accumulated(objective, n, mesh, has_history)

    def train_step(state, batch, told=MappingProxyType({})):
        keys = _keys(config, state.step) | {"step": state.step}
        if config.data.random_flip and levels is not None:
            flip = jax.random.bernoulli(keys["flip"], shape=(*batch.shape[:2], 1, 1, 1))
            batch = jnp.where(flip, batch[..., ::-1, :], batch)
        dequantize = config.data.uniform_dequantization
        x = data.to_model_space(config, levels, keys["dequantize"], batch, dequantize)

        opt_state, history = state.opt_state, None
        if has_history:
            opt_state, history = opt_state
            keys["levels"] = loss_history.probabilities(history)
        loss, grads = loss_and_gradient(state.params, keys, x, dict(told))
        if history is not None:
            loss, terms = loss
            history = loss_history.add(history, *terms)
        if config.optim.nan_to_num:
            grads = jax.tree.map(partial(jnp.nan_to_num, posinf=HUGE, neginf=-HUGE), grads)
        updates, opt_state = optimizer.update(grads, opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        rate = _ema_rate(config, state.step)
        # Exact for weights that stay, as a frozen encoder's.
        ema_params = jax.tree.map(
            lambda new, old: old + (1 - rate) * (new - old), params, state.ema_params
        )
        opt_state = opt_state if history is None else (opt_state, history)
        new = TrainState(state.step, params, ema_params, opt_state)

        norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        metrics = {"loss": loss, **norms}
        is_finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
        new = jax.tree.map(partial(jnp.where, is_finite), new, state)
        return new._replace(step=state.step + 1), metrics

    return train_step


def make_program(
    config: Config, model: nn.Module, levels: int | None, mesh: Mesh | None = None
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """program(state, resident, *batches) -> (state, metrics [steps]): a train step for each batch.

    They are what make_batches gives, and so is `resident`: the data that they are indices of.
    """
    mesh = mesh or sharding.make_mesh(config)
    train_step = make_train_step(config, model, levels, mesh)

    def program(state, resident, *batches):
        def step(state, batch):
            return train_step(state, *data.fetch(resident, batch))

        return jax.lax.scan(step, state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches))

    return program


def make_batches(config: Config, dataset: data.Dataset, start: int) -> Iterator[tuple]:
    """The arguments after the state of one program after another, to step training.n_iters.

    A program is of training.steps_per_jit steps; it ends at a multiple of that, or at the end.
    """
    mesh, training = sharding.make_mesh(config), config.training
    values: Any = dataset.train, conditions.of_data(config, dataset, "train")
    resident = data.resident(mesh, values, config.data.resident_bytes)
    if resident is not None:
        values = np.arange(len(dataset.train), dtype=np.int32)
    shape, place = batch_shape(mesh, training), sharding.of_batch(mesh, axis=1)
    stream = data.batches(values, config.seed, shape, start, place)
    while start < training.n_iters:
        n_steps = training.steps_per_jit - start % training.steps_per_jit
        n_steps = min(n_steps, training.n_iters - start)
        yield resident, *itertools.islice(stream, n_steps)
        start += n_steps


def load_data(config: Config) -> data.Dataset:
    """data.load, with labels and confidences that fit the model if it takes them."""
    dataset = data.load(config)
    if models.is_discriminator(config):
        return discriminator.load_data(config, dataset)
    if conditions.takes_labels(config):
        data.check_labels(dataset, config.data.num_classes)
    return confidence.load(config, dataset) if config.model.label_confidence else dataset


def _keys(config: Config, step: jax.Array) -> dict[str, jax.Array]:
    """The keys of a step, by what they are for."""
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    names = ("dequantize", "flip", "loss", "dropout")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    # Folded in: so the keys above stay what they were.
    later = {"augment": len(names), "labels": len(names) + 1}
    return keys | {name: jax.random.fold_in(key, n) for name, n in later.items()}


def _ema_rate(config: Config, step: jax.Array) -> jax.Array:
    """What is kept of the average; it starts short, so that it forgets the initial weights.

    By half-life, which grows with the images seen (Karras et al. 2022, Appendix F.2), if there is
    one.
    """
    options = config.model
    if not options.ema_halflife:
        return jnp.minimum(options.ema_rate, (1 + step) / (10 + step))
    batch_size, halflife = config.training.batch_size, options.ema_halflife
    if options.ema_rampup:
        halflife = jnp.minimum(halflife, step * (batch_size * options.ema_rampup))
    return 0.5 ** (batch_size / halflife)


def _make_objective(config: Config, model: nn.Module, levels: int | None) -> Callable[..., Any]:
    """objective(params, keys, first_index, x, told): mean loss of a microbatch.

    With a loss history, levels have the probabilities keys["levels"], and with the loss come the
    levels and the terms that go into it.
    """
    if models.is_classifier(config):
        return classifier.make_objective(config, model)
    if models.is_autoencoder(config):
        return autoencoder.make_objective(config, model)
    sde = build.make_sde(config)

    def objective(params, keys, first_index, x, told):
        told = conditions.at_random(config, keys["labels"], told, first_index)
        if config.data.augment:
            p = config.data.augment
            x, told["augment_labels"] = augment.augment(keys["augment"], x, p, first_index)
        told |= cascade.told_of(config, keys["loss"], x, first_index)
        score_fn = models.score_fn(config, sde, model, params, True, keys["dropout"], **told)
        loss = build.make_loss(config, levels, params)
        options = {"probabilities": keys["levels"]} if "levels" in keys else {}
        losses, about = loss(keys["loss"], sde, score_fn, x, first_index=first_index, **options)
        mean = jnp.mean(losses)
        return (mean, (about["level"], about["bits"])) if options else mean

    return objective


def _accumulated(
    objective: Callable[..., Any], n: int, mesh: Mesh, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """(params, keys, x, told) -> loss and gradient, their means over n microbatches.

    has_aux: n is 1, and the loss comes with something.
    """

    def of_one(k, params, keys, *batch):
        x, told = jax.tree.map(lambda leaf: leaf[k], batch)
        keys = keys | {"dropout": jax.random.fold_in(keys["dropout"], k)}
        whole = sharding.gather(mesh, params)
        loss, grads = jax.value_and_grad(objective, has_aux=has_aux)(
            whole, keys, k * len(x), x, told
        )
        # Added up whole first: else XLA for TPU computes slice after slice, in more memory.
        grads = sharding.gather(mesh, grads)
        return loss, jax.lax.with_sharding_constraint(grads, sharding.of_state(mesh, grads))

    def of_all(params, *arguments):
        def add(k, total):
            return jax.tree.map(jnp.add, total, of_one(k, params, *arguments))

        if n == 1:
            return of_one(0, params, *arguments)
        total = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        total = jax.lax.fori_loop(0, n, add, total)
        return jax.tree.map(lambda leaf: leaf / n, total)

    return of_all


def run(config: Config, workdir: Path) -> None:
    """Trains, then scores the test set and draws the pictures. Resumes where a run left off.

    Raises:
        FloatingPointError: config.training.max_skipped steps in a row had no finite loss and
            gradient.
    """
    if config.sampling.discriminator:
        raise ValueError(
            "config.sampling.discriminator guides a trained model, whose samples it knows: leave "
            "it out of mode train"
        )
    mesh, training = sharding.make_mesh(config), config.training
    batch_shape(mesh, training)
    check_periods(training)
    dataset = load_data(config)
    model = models.create(config)
    is_classifier, is_autoencoder = models.is_classifier(config), models.is_autoencoder(config)
    workdirs.check_owner(config, workdir)
    abstract = abstract_state(config, model)
    is_discriminator = models.is_discriminator(config)
    if is_discriminator and config.model.pretrained:
        discriminator.check_encoder(config)
    workdirs.claim(config, workdir)
    confidence.claim(config, workdir)
    latent.claim(config, dataset, workdir)
    if is_discriminator:
        discriminator.claim(config, dataset, workdir)
    n_params = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))
    describe = partial(model_card.describe, config, workdir, dataset, n_params)

    def pictures(step, state):
        if step < training.n_iters and is_autoencoder:
            about = state.ema_params, dataset, step, workdir
            autoencoder.save_reconstructions(config, model, *about)
        elif step < training.n_iters:
            sample.save_samples(config, model, state.ema_params, step, workdir)

    evaluation = held_out.make_evaluation(config, model, dataset)
    periodic: list[loop.Periodic] = [(training.eval_freq, evaluation)]
    if not is_classifier:
        periodic.append((training.snapshot_freq, pictures))
    with (
        loop.stop_signals() as stop,
        closing(Checkpoints(workdir, training.snapshot_freq, describe=describe)) as checkpoints,
    ):
        state = checkpoints.restore(like=abstract)
        state = state or discriminator.init_state(config, model, abstract)
        LOG.info("%s: %d parameters, from step %d", workdir, n_params, state.step)
        state, stopped = loop.fit(
            training,
            compiled(make_program(config, model, dataset.levels), abstract),
            state,
            make_batches(config, dataset, int(state.step)),
            checkpoints,
            workdir,
            periodic,
            stop,
        )
        checkpoints.save(int(state.step), state)
    if stopped:
        LOG.info("stopped and saved at step %d: run the same command to go on", state.step)
        return
    params, step = state.ema_params, int(state.step)
    if is_classifier:
        report = held_out.report(config, model, params, dataset)
        print(report)
        model_card.update(workdir, step, {"test set": report})
    elif is_autoencoder:
        report = autoencoder.report(config, model, params, dataset)
        print(report)
        print(autoencoder.save_reconstructions(config, model, params, dataset, step, workdir))
        model_card.update(workdir, step, {"test set": report})
    else:
        bits = likelihood.bits_per_dim(config, model, params, dataset)
        print(f"{likelihood.name(config)} {bits}")
        model_card.update(workdir, step, {likelihood.name(config): str(bits)})
        for path in sample.save_pictures(config, model, params, step, workdir):
            print(path)
    print(sample.save_loss_curve(config, step, workdir))


def compiled(train_step: Callable[..., Any], abstract: TrainState) -> Any:
    """train_step in place: the new state takes the old one's memory and shardings.

    So does a program of several; every host can read its metrics.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, shardings.step))


def check_periods(training: Config) -> None:
    """Raises ValueError unless what is to be done between steps is due between programs."""
    k = training.steps_per_jit
    check_at_least(1, **{"config.training.steps_per_jit": k})
    names = ("log_freq", "eval_freq", "snapshot_freq", "snapshot_freq_for_preemption")
    wrong = [f"config.training.{name} = {training[name]}" for name in names if training[name] % k]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)}: with config.training.steps_per_jit = {k}, give multiples of {k}"
        )


def batch_shape(mesh: Mesh, training: Config) -> tuple[int, int]:
    """(microbatches, samples in each).

    Raises:
        ValueError: the devices, times the microbatches, do not divide the batch.
    """
    batch_size, n = training.batch_size, training.n_microbatches
    if batch_size % (n * mesh.size):
        raise ValueError(
            f"config.training.batch_size is {batch_size}: it must be a multiple of {n * mesh.size},"
            f" for {n} x {mesh.size} = config.training.n_microbatches x devices"
        )
    return n, batch_size // n
