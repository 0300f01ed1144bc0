"""Published PyTorch weights, as parameters of our networks. PyTorch itself is not needed."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from models.config import Config
from models.inception import SIDE, Inception
from models.registry import create

LEAVES = {"kernel": ("weight", "W"), "scale": ("weight",), "bias": ("bias", "b"), "W": ("W",)}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def score_sde(state_dict: Mapping[str, np.ndarray], config: Config) -> Any:
    """Parameters of models.create(config) from a state dict of the PyTorch score_sde.

    The published network keeps its layers in a list, in the order in which they are called: entry
    `all_modules.i` is the i-th layer that ours calls, and inside a layer the names agree.

    Args:
        state_dict: {name: array}; of a checkpoint's "model" or, better, its EMA. A leading
            "module." and tensors that are no parameters ("sigmas") are ignored.
        config: as for models.create; config.data.image_size and num_channels are used too.

    Raises:
        ValueError: names that are missing or left over, or arrays of another shape.
    """
    arrays = {
        match[1]: np.asarray(array)
        for name, array in state_dict.items()
        if (match := re.fullmatch(r"(?:module\.)?(all_modules\..+)", name))
    }
    order, expected = _layers(config)
    params, missing, misshapen = {}, [], []
    for path, leaf in expected.items():
        prefix = ".".join([f"all_modules.{order.index(path[0])}", *path[1:-1]])
        candidates = [f"{prefix}.{name}" for name in LEAVES[path[-1]]]
        name = next((name for name in candidates if name in arrays), None)
        if name is None:
            missing.append(candidates[0])
            continue
        value = _to_linen(arrays.pop(name), is_weight=name.endswith("weight"))
        if value.shape != leaf.shape:
            misshapen.append(f"{name}: {value.shape}, not {leaf.shape}")
        params[path] = jnp.asarray(value, leaf.dtype)
    if not config.model.get("conditional", True):
        arrays.pop("all_modules.0.W", None)  # made by the published network, and never used
    if missing or arrays or misshapen:
        raise ValueError(
            "the state dict does not fit this config: "
            f"missing {missing or 'none'}; left over {sorted(arrays) or 'none'}; "
            f"of another shape (channels last) {misshapen or 'none'}"
        )
    return flax.traverse_util.unflatten_dict(params)


def _layers(config: Config) -> tuple[list[str], dict[tuple[str, ...], Any]]:
    """The network's layers in the order of their calls, and its parameters' shapes by path."""
    model = create(config)
    order = []
    if not config.model.get("conditional", True) and config.model.embedding_type == "fourier":
        order.append("unused Fourier features")

    def record(call, args, kwargs, context):
        if context.method_name == "__call__" and len(context.module.path) == 1:
            order.append(context.module.name)
        return call(*args, **kwargs)

    size = config.data.image_size
    x = jax.ShapeDtypeStruct((1, size, size, config.data.num_channels), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.float32)
    with nn.intercept_methods(record):
        variables = jax.eval_shape(model.init, jax.random.key(0), x, labels)
    return order, flax.traverse_util.flatten_dict(variables["params"])


def _to_linen(array: np.ndarray, is_weight: bool) -> np.ndarray:
    """Channels last: [out, in, h, w] to [h, w, in, out], and [out, in] to [in, out]."""
    if is_weight and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if is_weight and array.ndim == 2:
        return array.T
    return array


def inception(state_dict: Mapping[str, np.ndarray]) -> dict[str, dict[str, jax.Array]]:
    """Parameters of models.inception from the published `pt_inception-2015-12-05-6726825d.pth`.

    Each convolution takes in the batch normalisation that follows it.

    Raises:
        ValueError: names that are missing or left over, or arrays of another shape.
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
            f"left over {sorted(arrays.keys() - expected.keys()) or 'none'}; "
            f"of another shape {misshapen or 'none'}"
        )

    def fold(name):
        if name == "fc":
            return {"kernel": arrays["fc.weight"].T, "bias": arrays["fc.bias"]}
        scale, shift, mean, variance = (arrays[f"{name}.bn.{part}"] for part in BATCH_NORM)
        scale = scale / np.sqrt(variance + 1e-3)
        kernel = _to_linen(arrays[f"{name}.conv.weight"], is_weight=True)
        return {"kernel": kernel * scale, "bias": shift - mean * scale}

    return jax.tree.map(jnp.asarray, {name: fold(name) for name in layers})
