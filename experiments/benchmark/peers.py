"""The same computations by this program and by PyTorch's libraries, in turns in one process.

    pip install torch diffusers k-diffusion && pip install 'numpy>=2'
    python -m experiments.benchmark --peers

A UNet2DModel of diffusers gets the weights of our unet2d. Figures are a call of it, a gradient step
with Adam, samples and likelihoods by k-diffusion, and both for data whose score is known: a mixture
of Gaussians and a Gaussian. Both programs take the same noise levels and tolerances, and their
results are compared before the times. A ratio is our seconds over theirs: below 1, ours are fewer.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import samplers
import sde_lib
from experiments.benchmark import measure
from experiments.benchmark.measure import Figure, Run
from experiments.benchmark.presets import Preset
from experiments.benchmark.subject import Network, Subject
from experiments.build import data
from experiments.data.sources.points import MIXTURE
from experiments.runs import folder
from models import published
from models.published.base import About, extract
from samplers.noise_levels import levels_at, time_of

LIBRARIES = ("torch", "diffusers", "k-diffusion")
TRAIN_STEPS = 300  # before the likelihood of digits, and their LEARNING_RATE
LEARNING_RATE = 1e-3
N_STEPS = 20  # of DPM-Solver++(2M)
LOW, HIGH = 0.01, 80.0  # noise levels between which it steps
POINTS = 4096  # samples of the mixture
STD, DIMS = 0.5, 192  # of the Gaussian
TOLERANCE, TIGHT = 1e-4, 1e-6  # k-diffusion's default, and that of the solutions without error


class Pair(NamedTuple):
    """One computation by both programs: runs that return arrays, and how far these may differ."""

    name: str
    ours: Run
    theirs: Run
    apart: float


class Model(NamedTuple):
    """A model in both programs.

    Attributes:
        name: shown in the table.
        sde: of our score.
        score_fn: our score.
        denoised: E[x_0 | x] of tensors x = x_0 + sigma noise and sigma, as k-diffusion has it.
        shape: of a sample, channels first in tensors.
    """

    name: str
    sde: sde_lib.SDE
    score_fn: sde_lib.ScoreFn
    denoised: Callable[[Any, Any], Any]
    shape: tuple[int, ...]


def figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """Our seconds over those of the other libraries.

    Raises:
        ValueError: a library is not installed, or its result is not ours.
    """
    versions()
    subject, n = preset.peer, preset.n_samples
    images = np.asarray(data.dataset(subject.config()).train, np.float32) / 8 - 1
    network = subject.network()
    about = str(subject), repeats
    unet = _unet(subject, network.params)
    yield _timed(_call(network, unet, images[:n]), *about)
    yield _timed(_samples(_learned(subject, network, unet), n), *about)
    network = network._replace(params=_trained(network, images))
    unet.load_state_dict(_unet(subject, network.params).state_dict())
    yield _likelihood(_learned(subject, network, unet), images[:n], *about)
    yield _timed(_step(network, unet, images[:n]), *about)

    circle, gaussian = MIXTURE, sde_lib.GaussianMixture((1.0,), ((0.0,) * DIMS,), STD)
    yield _timed(_samples(_known("exact mixture", circle), POINTS), *about)
    x = np.asarray(gaussian.sample(jax.random.key(0), n))
    yield _likelihood(_known("exact Gaussian", gaussian), x, *about)


def versions() -> dict[str, str]:
    """The versions of the other libraries.

    Raises:
        ValueError: one is not installed.
    """
    try:
        return {name: metadata.version(name) for name in LIBRARIES}
    except metadata.PackageNotFoundError as error:
        raise ValueError(
            f"--peers needs {error.name}: pip install torch diffusers k-diffusion, then pip "
            "install 'numpy>=2', which k-diffusion works with too"
        ) from error


def _unet(subject: Subject, params: Any) -> Any:
    """The UNet2DModel of diffusers with the weights of our network."""
    from diffusers import UNet2DModel

    config, form = subject.config(), published.FORMATS["diffusers"]
    bare = published.skeleton(config, subject.network().shape)
    arrays = extract(params, form.table(bare)) | form.constants(bare)
    fields = folder.flatten(config.to_dict())
    with tempfile.TemporaryDirectory() as name:
        form.write(Path(name), arrays, form.options(bare, fields), About(fields))
        return UNet2DModel.from_pretrained(name).to(_device())


def _learned(subject: Subject, network: Network, unet: Any) -> Model:
    """The network under VP, whose label is 999 t."""
    sde: Any = network.model.sde
    b, c = sde.beta_min, sde.beta_max - sde.beta_min

    def denoised(x, sigma):  # -2 log alpha = b t + c t^2 / 2 = log(1 + sigma^2)
        t = ((b * b + 2 * c * sigma.square().log1p()).sqrt() - b) / c
        expanded = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return x - expanded * unet(x / (1 + expanded.square()).sqrt(), 999 * t).sample

    score_fn = network.model.score_fn(network.params)
    return Model(f"{subject.file} network", sde, score_fn, denoised, network.shape)


def _known(name: str, mixture: sde_lib.GaussianMixture) -> Model:
    """The exact score of a mixture under EDM."""
    import torch

    means, weights = (
        torch.tensor(each, device=_device()) for each in (mixture.means, mixture.weights)
    )

    def denoised(x, sigma):
        variance = sigma[:, None].square() + mixture.std**2
        distance = (x[:, None] - means).square().sum(-1)
        mean = torch.softmax(weights.log() - distance / (2 * variance), 1) @ means
        return mean + mixture.std**2 / variance * (x - mean)

    sde = sde_lib.EDM()
    return Model(name, sde, mixture.score_fn(sde), denoised, (len(mixture.means[0]),))


def _call(network: Network, unet: Any, x: np.ndarray) -> Pair:
    """One evaluation of the network."""
    import torch

    labels = np.full(len(x), 500.0, np.float32)
    apply = jax.jit(lambda params, x: network.model.network.apply({"params": params}, x, labels))

    tensors = _first(x), torch.tensor(labels, device=_device())

    @torch.no_grad()
    def theirs():
        return _last(unet(*tensors).sample)

    return Pair("call", lambda: apply(network.params, x), theirs, 1e-4)


def _step(network: Network, unet: Any, x: np.ndarray) -> Pair:
    """A gradient step with Adam on the error of the noise at t = 1/2; the runs return its loss."""
    import torch

    step, state = _adam(network)
    noise = np.random.RandomState(0).standard_normal(x.shape).astype(np.float32)
    t = np.full(len(x), 0.5, np.float32)
    mean, std = network.model.sde.marginal(jnp.asarray(x), jnp.asarray(t))
    noised = np.asarray(mean + std[:, None, None, None] * noise)
    optimizer = torch.optim.Adam(unet.parameters(), LEARNING_RATE)
    tensors = _first(noised), _first(noise), torch.tensor(999 * t, device=_device())

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


def _trained(network: Network, images: np.ndarray) -> Any:
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


def _samples(model: Model, n: int) -> Pair:
    """n samples by DPM-Solver++(2M), from the same noise through the same levels."""
    import torch
    from k_diffusion.sampling import sample_dpmpp_2m

    sde, (high, low) = model.sde, (HIGH, LOW)
    levels = np.geomspace(high, low, N_STEPS)
    y = high * np.random.RandomState(0).standard_normal((n, *model.shape)).astype(np.float32)
    t = time_of(sde, levels[0])
    levels[0] = levels_at(sde, [t])[0]
    start = samplers.Start(float(sde.alpha(t)) * y, t)
    sampler = samplers.create("dpmpp_2m", n_steps=N_STEPS, grid=tuple(map(float, levels)))
    draw = jax.jit(
        lambda key, x: sampler(key, sde, model.score_fn, y.shape, start=start._replace(x=x)).x
    )
    sigmas = torch.tensor([*levels, 0.0], dtype=torch.float32, device=_device())
    noise = _first(y)

    @torch.no_grad()
    def theirs():
        return _last(sample_dpmpp_2m(model.denoised, noise, sigmas, disable=True))

    ours = lambda: draw(jax.random.key(0), start.x)  # noqa: E731
    return Pair(f"samples, {model.name}", ours, theirs, 0.01)


def _likelihood(model: Model, x: np.ndarray, subject: str, repeats: int) -> Figure:
    """Log-likelihoods, with their evaluations, and the errors to solutions at TIGHT."""
    import torch
    from k_diffusion.sampling import log_likelihood

    sde, score_fn = model.sde, model.score_fn
    low, high = levels_at(sde, [sde.train_t_min, sde.t_max])

    @partial(jax.jit, static_argnums=1)
    def solve(x, tolerance):
        return sde_lib.log_likelihood(
            jax.random.key(0), sde, score_fn, x, rtol=tolerance, atol=tolerance
        )

    def ours(tolerance=TOLERANCE):
        return solve(x, tolerance)

    values = _first(x)

    def theirs(tolerance=TOLERANCE):
        torch.manual_seed(0)  # the same probes
        found, about = log_likelihood(
            model.denoised, values, float(low), float(high), rtol=tolerance, atol=tolerance
        )
        return found.cpu().numpy(), about["fevals"]

    title = f"likelihood, {model.name}"
    measure.compiled(f"peers {title}", ours, theirs)
    pairs = {"ours": (ours().log_prob, ours(TIGHT).log_prob)}
    pairs["theirs"] = (theirs()[0], theirs(TIGHT)[0])
    details: dict[str, Any] = {"nfe": int(ours().nfe), "their nfe": int(theirs()[1])}
    for name, (found, tight) in pairs.items():
        nats = np.abs(np.mean(np.subtract(found, tight)))
        details[f"{name}: error"] = float(nats / (np.log(2) * x[0].size))
    return _ratio(Pair(title, ours, theirs, 0), subject, repeats, details)


def _timed(pair: Pair, subject: str, repeats: int) -> Figure:
    """The figure of a pair whose results agree.

    Raises:
        ValueError: they do not.
    """
    with measure.working(f"peers {pair.name}: compiling"):
        ours, theirs = np.asarray(pair.ours()), np.asarray(pair.theirs())
    apart = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not apart <= pair.apart:
        raise ValueError(
            f"{pair.name}: the results differ by {apart:.2g} of the largest, and {pair.apart:g} "
            "would be float32's rounding: they are not of one computation"
        )
    return _ratio(pair, subject, repeats, {"apart": apart})


def _ratio(pair: Pair, subject: str, repeats: int, details: dict[str, Any]) -> Figure:
    runs = {"ours": pair.ours, "theirs": pair.theirs}
    times = measure.in_turns(f"peers {pair.name}", runs, repeats)
    ours_to_theirs = measure.ratio(times, "ours", ["theirs"])
    seconds = measure.medians(times)
    return Figure("peers", subject, pair.name, ours_to_theirs, seconds, repeats, details)


def _device() -> str:
    """The device of JAX, as PyTorch calls it."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def _first(x: np.ndarray) -> Any:
    """A tensor with channels first."""
    import torch

    return torch.tensor(np.moveaxis(x, -1, 1) if x.ndim > 2 else x, device=_device())


def _last(x: Any) -> np.ndarray:
    """An array with channels last."""
    array = x.cpu().numpy()
    return np.moveaxis(array, 1, -1) if array.ndim > 2 else array
