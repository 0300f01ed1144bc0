"""Converts published PyTorch weights to parameters of our networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import published, weights
from models.config import Config
from models.inception import SIDE, Inception

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def load_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays by name in a file that models.weights reads.

    A pickle of an EDM run holds several networks: the averaged one, "ema", is taken.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    content = weights.read(path)
    if isinstance(content, dict) and weights.is_module(content.get("ema")):
        content = content["ema"]
    try:
        return weights.state_dict(content)
    except ValueError as error:
        raise ValueError(f"{path} {error}: give a file of arrays by name alone") from error


def score_sde(state_dict: Mapping[str, np.ndarray], config: Config) -> Any:
    """Parameters of models.create(config) from a state dict of the PyTorch version of score_sde.

    Args:
        state_dict: {name: array}. The prefix "module." and tensors that are no parameters
            ("sigmas") are ignored.
        config: as for models.create. config.data.image_size and num_channels are also used.

    Raises:
        ValueError: names are missing or unexpected, or an array has another shape.
    """
    return published.params(published.FORMATS["score_sde"], state_dict, config)


def edm(state_dict: Mapping[str, np.ndarray], config: Config) -> Any:
    """Parameters of models.create(config) from a state dict of an EDM network.

    Args:
        state_dict: {name: array} of the EMA network ("ema") in the published file. The prefix
            "model." and buffers other than the Fourier frequencies are ignored.
        config: as for models.create; the network is EDM's DDPM++, NCSN++ or ADM.
            config.data.image_size and num_channels are also used.

    Raises:
        ValueError: config is none of EDM's networks; names are missing or unexpected; or an array
            has another shape.
    """
    return published.params(published.FORMATS["edm"], state_dict, config)


def inception(state_dict: Mapping[str, np.ndarray]) -> dict[str, dict[str, jax.Array]]:
    """Parameters of models.inception from the published `pt_inception-2015-12-05-6726825d.pth`.

    Each batch normalisation is folded into the convolution before it.

    Raises:
        ValueError: names are missing or unexpected, or an array has another shape.
    """
    arrays = {
        name: np.asarray(array, np.float32)
        for name, array in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    x = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    layers = jax.eval_shape(Inception().init, jax.random.key(0), x)["params"]
    expected = {}
    for name, layer in layers.items():
        *window, inputs, outputs = layer["kernel"].shape
        if not window:
            expected |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
            continue
        expected[f"{name}.conv.weight"] = (outputs, inputs, *window)
        expected |= {f"{name}.bn.{part}": (outputs,) for part in BATCH_NORM}
    misshapen = [
        f"{name}: {arrays[name].shape}, not {shape}"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if arrays.keys() != expected.keys() or misshapen:
        raise ValueError(
            "the state dict is not that of FID's Inception-v3: "
            f"missing {sorted(expected.keys() - arrays.keys()) or 'none'}; "
            f"unexpected {sorted(arrays.keys() - expected.keys()) or 'none'}; "
            f"of another shape {misshapen or 'none'}"
        )

    def fold(name):
        if name == "fc":
            return {"kernel": arrays["fc.weight"].T, "bias": arrays["fc.bias"]}
        scale, shift, mean, variance = (arrays[f"{name}.bn.{part}"] for part in BATCH_NORM)
        scale = scale / np.sqrt(variance + 1e-3)
        kernel = arrays[f"{name}.conv.weight"].transpose(2, 3, 1, 0)
        return {"kernel": kernel * scale, "bias": shift - mean * scale}

    return jax.tree.map(jnp.asarray, {name: fold(name) for name in layers})
