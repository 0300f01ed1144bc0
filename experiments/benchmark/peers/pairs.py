"""One computation by this program and by PyTorch's: a call, a gradient step, samples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import samplers
from experiments.benchmark import measure
from experiments.benchmark.measure import Run
from experiments.benchmark.peers.models import Model, channels_first, channels_last, device, library
from experiments.benchmark.subject import Network
from samplers.noise_levels import levels_at, time_of

TRAIN_STEPS = 300  # before the likelihood of digits, and their LEARNING_RATE
LEARNING_RATE = 1e-3
N_STEPS = 20  # of DPM-Solver++(2M)
LOW, HIGH = 0.01, 80.0  # noise levels between which it steps


class Pair(NamedTuple):
    """One computation by both programs: runs that return arrays, and how far these may differ."""

    name: str
    ours: Run
    theirs: Run
    apart: float


def call(network: Network, unet: Any, x: np.ndarray) -> Pair:
    """One evaluation of the network."""
    torch = library("torch")
    labels = np.full(len(x), 500.0, np.float32)
    apply = jax.jit(lambda params, x: network.model.network.apply({"params": params}, x, labels))
    tensors = channels_first(x), torch.tensor(labels, device=device())

    @torch.no_grad()
    def theirs():
        return channels_last(unet(*tensors).sample)

    return Pair("call", lambda: apply(network.params, x), theirs, 1e-4)


def step_of(network: Network, unet: Any, x: np.ndarray) -> Pair:
    """A gradient step with Adam on the error of the noise at t = 1/2; the runs return its loss."""
    torch = library("torch")
    step, state = _adam(network)
    noise = np.random.RandomState(0).standard_normal(x.shape).astype(np.float32)
    t = np.full(len(x), 0.5, np.float32)
    mean, std = network.model.sde.marginal(jnp.asarray(x), jnp.asarray(t))
    noised = np.asarray(mean + std[:, None, None, None] * noise)
    optimizer = torch.optim.Adam(unet.parameters(), LEARNING_RATE)
    tensors = channels_first(noised), channels_first(noise), torch.tensor(999 * t, device=device())

    def ours():
        state[:], loss = step(*state, noised, noise, t)
        return loss

    def theirs():
        noised, noise, labels = tensors
        optimizer.zero_grad()
        loss = (unet(noised, labels).sample - noise).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach().cpu().numpy()

    return Pair("gradient step", ours, theirs, 1e-3)


def _adam(network: Network) -> tuple[Callable, list[Any]]:
    """step(params, moments, noised, noise, t) -> ([params, moments], loss), and its first state."""
    optimizer = optax.adam(LEARNING_RATE)

    def objective(params, noised, noise, t):
        predicted = network.model.network.apply({"params": params}, noised, 999 * t)
        return jnp.mean((predicted - noise) ** 2)

    @jax.jit
    def step(params, moments, *batch):
        loss, grads = jax.value_and_grad(objective)(params, *batch)
        updates, moments = optimizer.update(grads, moments, params)
        return [optax.apply_updates(params, updates), moments], loss

    return step, [network.params, optimizer.init(network.params)]


def trained(network: Network, images: np.ndarray) -> Any:
    """The weights after TRAIN_STEPS steps of 128 images."""
    (step, state), random = _adam(network), np.random.RandomState(0)
    sde: Any = network.model.sde
    with measure.working("peers: training", TRAIN_STEPS) as shown:
        for _ in range(TRAIN_STEPS):
            x = images[random.randint(len(images), size=128)]
            noise = random.standard_normal(x.shape).astype(np.float32)
            t = random.uniform(sde.train_t_min, 1, len(x)).astype(np.float32)
            mean, std = sde.marginal(x, t)
            state, _ = step(*state, mean + std[:, None, None, None] * noise, noise, t)
            shown.update()
    return state[0]


def samples(model: Model, n: int) -> Pair:
    """n samples by DPM-Solver++(2M), from the same noise through the same levels."""
    torch, sampling = library("torch"), library("k_diffusion.sampling")
    sde, levels = model.sde, np.geomspace(HIGH, LOW, N_STEPS)
    y = HIGH * np.random.RandomState(0).standard_normal((n, *model.shape)).astype(np.float32)
    t = time_of(sde, levels[0])
    levels[0] = levels_at(sde, [t])[0]
    start = samplers.Start(jnp.asarray(float(sde.alpha(t)) * y), t)
    sampler = samplers.create("dpmpp_2m", n_steps=N_STEPS, grid=tuple(map(float, levels)))
    draw = jax.jit(
        lambda key, x: sampler(key, sde, model.score_fn, y.shape, start=start._replace(x=x)).x
    )
    sigmas = torch.tensor([*levels, 0.0], dtype=torch.float32, device=device())
    noise = channels_first(y)

    @torch.no_grad()
    def theirs():
        return channels_last(sampling.sample_dpmpp_2m(model.denoised, noise, sigmas, disable=True))

    ours = lambda: draw(jax.random.key(0), start.x)  # noqa: E731
    return Pair(f"samples, {model.name}", ours, theirs, 0.01)
