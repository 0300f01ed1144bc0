"""Mode train: denoising score matching, from the last checkpoint to config.training.n_iters."""

import logging
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import models
from experiments import build, data, likelihood, sample
from experiments import workdir as workdirs
from experiments.checkpoint import Checkpoints
from models.config import Config

LOG = logging.getLogger(__name__)
IN_FLIGHT = 2  # steps that may run before their metrics are read


class TrainState(NamedTuple):
    step: jax.Array
    params: Any
    ema_params: Any
    opt_state: Any


def init_state(config: Config, model: nn.Module) -> TrainState:
    """The state before the first step: a function of config and config.seed."""
    params = jax.jit(model.init)(jax.random.key(config.seed), *build.dummy_inputs(config))["params"]
    ema_params = jax.tree.map(jnp.copy, params)
    return TrainState(
        jnp.zeros((), jnp.int32), params, ema_params, build.make_optimizer(config).init(params)
    )


def make_train_step(
    config: Config, model: nn.Module, levels: int | None
) -> Callable[[TrainState, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """(state, batch) -> (state, metrics): pure, a function of (config, state, batch) alone."""
    sde, optimizer = build.make_sde(config), build.make_optimizer(config)
    loss = build.make_loss(config)

    def loss_fn(params, keys, x):
        score_fn = models.score_fn(config, sde, model, params, True, keys["dropout"])
        return jnp.mean(loss(keys["loss"], sde, score_fn, x)[0])

    def train_step(state, batch):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        names = ("dequantize", "flip", "loss", "dropout")
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        if config.data.random_flip and levels is not None:
            flip = jax.random.bernoulli(keys["flip"], shape=(len(batch), 1, 1, 1))
            batch = jnp.where(flip, batch[:, :, ::-1], batch)
        dequantize = config.data.uniform_dequantization
        x = data.to_model_space(config, levels, keys["dequantize"], batch, dequantize)

        value, grads = jax.value_and_grad(loss_fn)(state.params, keys, x)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # The average starts short, so that it forgets the initial weights.
        rate = jnp.minimum(config.model.ema_rate, (1 + state.step) / (10 + state.step))
        ema_params = optax.incremental_update(params, state.ema_params, 1 - rate)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    return train_step


def run(config: Config, workdir: Path) -> None:
    """Trains, then scores the test set and draws the pictures. Resumes where a run left off.

    Raises:
        FloatingPointError: a loss or gradient is not finite; names the step.
    """
    dataset = data.load(config)
    model = models.create(config)
    workdirs.check_owner(config, workdir)
    state = init_state(config, model)
    workdirs.claim(config, workdir)
    with closing(Checkpoints(workdir)) as checkpoints:
        state = checkpoints.restore(like=state) or state
        n_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        LOG.info("%s: %d parameters, from step %d", workdir, n_params, state.step)
        state, stopped = _train(config, model, dataset, state, checkpoints, workdir)
        checkpoints.save(int(state.step), state)
    if stopped:
        LOG.info("stopped and saved at step %d: run the same command to go on", state.step)
        return
    params, step = state.ema_params, int(state.step)
    print(f"test bits/dim {likelihood.bits_per_dim(config, model, params, dataset)}")
    for path in sample.save_pictures(config, model, params, step, workdir):
        print(path)
    print(sample.save_loss_curve(config, step, workdir))


def load(config: Config, workdir: Path) -> tuple[nn.Module, Any, int]:
    """The model of a run, its averaged parameters, and the step that they are from.

    Raises:
        ValueError: there is no run, or it belongs to another config.
    """
    workdirs.check_owner(config, workdir)
    model = models.create(config)
    if not (workdir / "checkpoints").exists():
        raise ValueError(f"{workdir} holds no checkpoints: train first, or give the --workdir")
    with closing(Checkpoints(workdir)) as checkpoints:
        state = checkpoints.restore(like=init_state(config, model))
    if state is None:
        raise ValueError(f"{workdir} holds no checkpoint yet: train first")
    return model, state.ema_params, int(state.step)


def _train(
    config: Config,
    model: nn.Module,
    dataset: data.Dataset,
    state: TrainState,
    checkpoints: Checkpoints,
    workdir: Path,
) -> tuple[TrainState, bool]:
    """The loop. Returns the last state, and whether a signal stopped it."""
    training = config.training
    start = int(state.step)
    train_step = jax.jit(make_train_step(config, model, dataset.levels), donate_argnums=0)
    batches = data.batches(dataset.train, config.seed, training.batch_size, start)
    pending: deque[tuple[int, dict[str, jax.Array]]] = deque()
    rows: list[dict[str, float]] = []  # of the steps since the last log

    with (
        closing(workdirs.Metrics(workdir, start)) as metrics,
        _progress(start, training.n_iters, training.batch_size) as progress,
        _stop_signals() as stop,
    ):

        def settle(in_flight: int) -> None:
            """Reads the metrics of all but the last steps: so the loop runs ahead of the device."""
            while len(pending) > in_flight:
                step, values = pending.popleft()
                rows.append(_finite(step, values))
                progress(step)
                if step % training.log_freq == 0 or step == training.n_iters:
                    means = {name: float(np.mean([row[name] for row in rows])) for name in values}
                    rows.clear()
                    metrics.write(step, **means)
                    progress(step, means)

        for step in range(start + 1, training.n_iters + 1):
            state, values = train_step(state, next(batches))
            pending.append((step, values))
            settle(IN_FLIGHT)
            if stop.is_set():
                break
            if step % training.snapshot_freq_for_preemption == 0:
                settle(0)  # so that no checkpoint holds a state that went wrong
                checkpoints.save(step, state)
            if step % training.snapshot_freq == 0 and step < training.n_iters:
                settle(0)
                sample.save_samples(config, model, state.ema_params, step, workdir)
        settle(0)
    return state, stop.is_set()


def _finite(step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    bad = [f"{name} is {value}" for name, value in values.items() if not np.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"{', '.join(bad)} at step {step}: stopped; the last checkpoint is good. Lower "
            "config.optim.lr, or clip more (config.optim.grad_clip)"
        )
    return values


@contextmanager
def _progress(start: int, total: int, batch_size: int) -> Iterator[Callable[..., None]]:
    """show(step) each step, show(step, means) with the metrics: a bar for a person, lines else."""
    watched = sys.stderr.isatty()
    last_step, last_time = start, time.perf_counter()
    with tqdm(initial=start, total=total, unit="step", disable=not watched) as bar:

        def show(step: int, means: dict[str, float] | None = None) -> None:
            nonlocal last_step, last_time
            bar.update(step - bar.n)
            if means is None:
                return
            now = time.perf_counter()
            seconds = (now - last_time) / (step - last_step)
            last_step, last_time = step, now
            shown = f"loss {means['loss']:.4g}, {batch_size / seconds:.0f} images/s"
            bar.set_postfix_str(shown)
            if not watched:
                left = time.strftime("%H:%M:%S", time.gmtime(seconds * (total - step)))
                LOG.info("step %d of %d: %s, time left %s", step, total, shown, left)

        yield show


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second signal acts as it did before."""
    event = threading.Event()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def ask(number: int, frame: Any) -> None:
        LOG.info("%s: saving", signal.Signals(number).name)
        event.set()
        restore()

    for number in previous:
        signal.signal(number, ask)
    try:
        yield event
    finally:
        restore()
