"""Models that both programs have: a UNet2DModel of diffusers, and mixtures with exact scores."""

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import sde_lib
from experiments.benchmark.subject import Network, Subject
from experiments.runs import folder
from models import published
from models.published.base import About, extract


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


def unet_of(subject: Subject, network: Network) -> Any:
    """The UNet2DModel of diffusers with the weights of our network."""
    config, form = subject.config(), published.FORMATS["diffusers"]
    bare = published.skeleton(config, network.shape)
    arrays = extract(network.params, form.table(bare)) | form.constants(bare)
    fields = folder.flatten(config.to_dict())
    with tempfile.TemporaryDirectory() as name:
        form.write(Path(name), arrays, form.options(bare, fields), About(fields))
        return library("diffusers").UNet2DModel.from_pretrained(name).to(device())


def learned(subject: Subject, network: Network, unet: Any) -> Model:
    """The network under VP, whose label is 999 t."""
    sde: Any = network.model.sde
    b, c = sde.beta_min, sde.beta_max - sde.beta_min

    def denoised(x, sigma):  # -2 log alpha = b t + c t^2 / 2 = log(1 + sigma^2)
        t = ((b * b + 2 * c * sigma.square().log1p()).sqrt() - b) / c
        expanded = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return x - expanded * unet(x / (1 + expanded.square()).sqrt(), 999 * t).sample

    score_fn = network.model.score_fn(network.params)
    return Model(f"{subject.file} network", sde, score_fn, denoised, network.shape)


def known(name: str, mixture: sde_lib.GaussianMixture) -> Model:
    """The exact score of a mixture under EDM."""
    torch = library("torch")
    means, weights = (
        torch.tensor(each, device=device()) for each in (mixture.means, mixture.weights)
    )

    def denoised(x, sigma):
        variance = sigma[:, None].square() + mixture.std**2
        distance = (x[:, None] - means).square().sum(-1)
        mean = torch.softmax(weights.log() - distance / (2 * variance), 1) @ means
        return mean + mixture.std**2 / variance * (x - mean)

    sde = sde_lib.EDM()
    return Model(name, sde, mixture.score_fn(sde), denoised, (len(mixture.means[0]),))


def library(name: str) -> Any:
    """A library that is installed for this comparison alone, imported when it is needed."""
    return importlib.import_module(name)


def device() -> str:
    """The device of JAX, as PyTorch calls it."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def channels_first(x: np.ndarray) -> Any:
    """A tensor with channels first."""
    x = np.moveaxis(x, -1, 1) if x.ndim > 2 else x
    return library("torch").tensor(x, device=device())


def channels_last(x: Any) -> np.ndarray:
    """An array with channels last."""
    array = x.cpu().numpy()
    return np.moveaxis(array, 1, -1) if array.ndim > 2 else array
