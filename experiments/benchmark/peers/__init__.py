"""The same computations by this program and by PyTorch's libraries, in turns in one process.

    pip install torch diffusers k-diffusion && pip install 'numpy>=2'
    python -m experiments.benchmark --peers

A UNet2DModel of diffusers gets the weights of our unet2d. Figures are a call of it, a gradient step
with Adam, samples and likelihoods by k-diffusion, and both for data whose score is known: a mixture
of Gaussians and a Gaussian. Both programs take the same noise levels and tolerances, and their
results are compared before the times. A ratio is our seconds over theirs: below 1, ours are fewer.
"""

from collections.abc import Iterator
from functools import partial
from importlib import metadata
from typing import Any

import jax
import numpy as np

import sde_lib
from experiments.benchmark import measure
from experiments.benchmark.measure import Figure
from experiments.benchmark.peers.models import (
    Model,
    channels_first,
    known,
    learned,
    library,
    unet_of,
)
from experiments.benchmark.peers.pairs import Pair, call, samples, step_of, trained
from experiments.benchmark.presets import Preset
from experiments.build import data
from experiments.data.sources.points import MIXTURE
from samplers.noise_levels import levels_at

LIBRARIES = ("torch", "diffusers", "k-diffusion")
POINTS = 4096  # samples of the mixture
STD, DIMS = 0.5, 192  # of the Gaussian
TOLERANCE, TIGHT = 1e-4, 1e-6  # k-diffusion's default, and that of the solutions without error


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
    unet = unet_of(subject, network)
    yield _timed(call(network, unet, images[:n]), *about)
    yield _timed(samples(learned(subject, network, unet), n), *about)
    network = network._replace(params=trained(network, images))
    unet.load_state_dict(unet_of(subject, network).state_dict())
    yield likelihood(learned(subject, network, unet), images[:n], *about)
    yield _timed(step_of(network, unet, images[:n]), *about)

    circle, gaussian = MIXTURE, sde_lib.GaussianMixture((1.0,), ((0.0,) * DIMS,), STD)
    yield _timed(samples(known("exact mixture", circle), POINTS), *about)
    x = np.asarray(gaussian.sample(jax.random.key(0), n))
    yield likelihood(known("exact Gaussian", gaussian), x, *about)


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


def likelihood(model: Model, x: np.ndarray, subject: str, repeats: int) -> Figure:
    """Log-likelihoods, with their evaluations, and the errors to solutions at TIGHT."""
    torch, sampling = library("torch"), library("k_diffusion.sampling")
    sde, score_fn = model.sde, model.score_fn
    low, high = levels_at(sde, [sde.train_t_min, sde.t_max])

    @partial(jax.jit, static_argnums=1)
    def solve(x, tolerance):
        return sde_lib.log_likelihood(
            jax.random.key(0), sde, score_fn, x, rtol=tolerance, atol=tolerance
        )

    def ours(tolerance=TOLERANCE):
        return solve(x, tolerance)

    values = channels_first(x)

    def theirs(tolerance=TOLERANCE):
        torch.manual_seed(0)  # the same probes
        found, about = sampling.log_likelihood(
            model.denoised, values, float(low), float(high), rtol=tolerance, atol=tolerance
        )
        return found.cpu().numpy(), about["fevals"]

    title = f"likelihood, {model.name}"
    with measure.working(f"peers {title}: compiling"):
        our, our_tight = ours(), ours(TIGHT)
        (their, their_nfe), (their_tight, _) = theirs(), theirs(TIGHT)
    details: dict[str, Any] = {"nfe": int(our.nfe), "their nfe": int(their_nfe)}
    pairs = {"ours": (our.log_prob, our_tight.log_prob), "theirs": (their, their_tight)}
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
