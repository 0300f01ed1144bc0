"""Converts published PyTorch weights to parameters of our networks."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from models import weights
from models.adm import ADM
from models.config import Config
from models.inception import SIDE, Inception
from models.ncsnpp import NCSNpp
from models.registry import create

UNUSED = "Fourier features"  # a layer that an unconditional published NCSN++ has but never uses
LEAVES = {"kernel": ("weight", "W"), "scale": ("weight",), "bias": ("bias", "b"), "W": ("W",)}
EDM_NCSNPP = {
    "conditional": True,
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "nonlinearity": "swish",
    "log_labels": False,
    "scale_by_sigma": False,
}
EDM_EMBEDDING = {
    "FourierEmbedding_0": "map_noise",
    "class_embedding": "map_label",
    "augment_embedding": "map_augment",
    "Dense_0": "map_layer0",
    "Dense_1": "map_layer1",
}
EDM_BLOCK = {
    "GroupNorm_0": "norm0",
    "Conv_0": "conv0",
    "Dense_0": "affine",
    "GroupNorm_1": "norm1",
    "Conv_1": "conv1",
    "Conv_2": "skip",
    "Conv2d_0": "",  # Downsample, which is a single convolution in EDM
}
EDM_ATTENTION = {
    "GroupNorm_0": "norm2",
    "NIN_0": "qkv[0]",
    "NIN_1": "qkv[1]",
    "NIN_2": "qkv[2]",
    "NIN_3": "proj",
}
EDM_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "W": "freqs"}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")

Location = tuple[str, ...]
"""Path of a parameter: the names of its modules from the outside in, then its own name."""


def load_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays by name in a file that models.weights reads, of 32 bits or more if not integers.

    A pickle of an EDM run holds several networks: the averaged one, "ema", is taken.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    content = weights.read(path)
    if isinstance(content, dict) and weights.is_module(content.get("ema")):
        content = content["ema"]
    try:
        return _widened(weights.state_dict(content))
    except ValueError as error:
        raise ValueError(f"{path} {error}: give a file of arrays by name alone") from error


def load_pth(path: str | Path) -> dict[str, Any]:
    """A checkpoint of the PyTorch version of score_sde, as NumPy arrays.

    Floating-point numbers of fewer than 32 bits, such as bfloat16, become float32.

    Returns:
        {"model": {name: array}, "ema": {"shadow_params": [array]}, "step": int}.

    Raises:
        ValueError: the file cannot be read, or is no such checkpoint.
    """
    content = weights.read(path)
    parts = content if isinstance(content, dict) else {}
    model, ema, step = (parts.get(name) for name in ("model", "ema", "step"))
    averages = ema.get("shadow_params") if isinstance(ema, dict) else None
    whole = {
        "model (tensors by name)": isinstance(model, dict) and _are_arrays(model.values()),
        "ema.shadow_params (a list of tensors)": isinstance(averages, list | tuple)
        and _are_arrays(averages),
        "step (a number)": isinstance(step, int | float | np.generic) or _are_arrays([step]),
    }
    if missing := [name for name, found in whole.items() if not found]:
        raise ValueError(
            f"{path} holds {weights.about(content)}, but a checkpoint of score_sde holds model, "
            f"ema and step: make one that has {', '.join(missing)} too"
        )
    averages = _widened(dict(enumerate(averages or ())))
    return {
        "model": _widened(parts["model"]),
        "ema": {"shadow_params": list(averages.values())},
        "step": int(parts["step"]),
    }


def _are_arrays(values: Iterable[Any]) -> bool:
    return all(isinstance(value, np.ndarray) for value in values)


def _widened(arrays: Mapping[Any, np.ndarray]) -> dict[Any, np.ndarray]:
    def widen(array):
        narrow = jnp.issubdtype(array.dtype, jnp.floating) and array.itemsize < 4
        return array.astype(np.float32) if narrow else array

    return {name: widen(array) for name, array in arrays.items()}


def ema_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state dict of a checkpoint, with EMA weights in place of the last weights.

    The checkpoint stores the EMA weights as a list without names, in the order of the trained
    parameters. Fourier frequencies and the buffer "sigmas" are not trained.

    Args:
        checkpoint: from load_pth.

    Raises:
        ValueError: the EMA weights are missing, or do not fit the model's parameters.
    """
    state, averages = checkpoint["model"], checkpoint.get("ema", {}).get("shadow_params", [])
    trained = [
        name
        for name, array in state.items()
        if not name.endswith("sigmas") and not (name.endswith(".W") and array.ndim == 1)
    ]
    if len(averages) != len(trained):
        raise ValueError(
            f"the checkpoint's ema.shadow_params holds {len(averages)} arrays, but its model has "
            f"{len(trained)} trained parameters"
        )
    misshapen = [
        f"{name}: {average.shape}, not {state[name].shape}"
        for name, average in zip(trained, averages, strict=True)
        if average.shape != state[name].shape
    ]
    if misshapen:
        raise ValueError(f"the checkpoint's EMA weights do not fit its model: {misshapen}")
    return state | dict(zip(trained, averages, strict=True))


def score_sde(state_dict: Mapping[str, np.ndarray], config: Config) -> Any:
    """Parameters of models.create(config) from a state dict of the PyTorch version of score_sde.

    The published network keeps its layers in a list in calling order: `all_modules.i` is the i-th
    layer that ours calls. Inside a layer the names agree.

    Args:
        state_dict: {name: array}, from ema_state_dict or a checkpoint's "model". The prefix
            "module." and tensors that are no parameters ("sigmas") are ignored.
        config: as for models.create. config.data.image_size and num_channels are also used.

    Raises:
        ValueError: names are missing or left over, or an array has another shape.
    """
    arrays = {
        match[1]: np.asarray(array)
        for name, array in state_dict.items()
        if (match := re.fullmatch(r"(?:module\.)?(all_modules\..+)", name))
    }
    order, expected = _layers(config)
    names = {}
    for path in expected:
        prefix = ".".join([f"all_modules.{order.index(path[0])}", *path[1:-1]])
        names[path] = [f"{prefix}.{name}" for name in LEAVES.get(path[-1], path[-1:])]
    if order[0] == UNUSED:
        arrays.pop("all_modules.0.W", None)
    return _assign(arrays, names, expected)


def edm(state_dict: Mapping[str, np.ndarray], config: Config) -> Any:
    """Parameters of models.create(config) from a state dict of an EDM network.

    Args:
        state_dict: {name: array} of the EMA network ("ema") in the published file. The prefix
            "model." and buffers other than the Fourier frequencies are ignored.
        config: as for models.create; the network is EDM's DDPM++, NCSN++ or ADM.
            config.data.image_size and num_channels are also used.

    Raises:
        ValueError: config is none of EDM's networks; names are missing or left over; or an array
            has another shape.
    """
    arrays = {}
    for name, array in state_dict.items():
        name, array = name.removeprefix("model."), np.asarray(array)
        if name == "u" or name.endswith("resample_filter"):
            continue
        if array.shape[2:] == (1, 1) and not name.endswith("skip.weight"):
            array = array[:, :, 0, 0]  # EDM's attention layers are 1 x 1 convolutions
        if ".qkv." in name:  # queries, keys and values are interleaved
            arrays |= {name.replace("qkv", f"qkv[{i}]"): array[i::3] for i in range(3)}
        else:
            arrays[name] = array
    blocks = _edm_blocks(config)
    order, expected = _layers(config)
    prefixes, block = {}, ""
    for layer in order:
        if layer not in EDM_EMBEDDING and not layer.startswith("Attention"):
            block = next(blocks)
        prefixes[layer] = EDM_EMBEDDING.get(layer, block)
    names = {}
    for layer, *modules, leaf in expected:
        inside = EDM_ATTENTION if layer.startswith("Attention") else EDM_BLOCK
        parts = [prefixes[layer], *(inside[module] for module in modules), EDM_LEAVES[leaf]]
        names[layer, *modules, leaf] = [".".join(filter(None, parts))]
    return _assign(arrays, names, expected)


def _edm_blocks(config: Config) -> Iterator[str]:
    """EDM's names of the network's blocks, in calling order."""
    network: Any = create(config)
    adm, residual = isinstance(network, ADM), getattr(network, "fir", False)
    fields = {} if adm else EDM_NCSNPP | {"progressive_input": "residual" if residual else "none"}
    other = {name: value for name, value in fields.items() if getattr(network, name, None) != value}
    if other:
        raise ValueError(
            f"config.model.name={config.model.name!r} with these fields is none of EDM's networks: "
            f"use 'adm', or 'ncsnpp' with {other}"
        )
    sides = [config.data.image_size >> level for level in range(len(network.ch_mult))]
    sides = [f"{side}x{side}" for side in sides]
    for level, side in enumerate(sides):
        yield f"enc.{side}_down" if level else f"enc.{side}_conv"
        if level and residual:
            yield f"enc.{side}_aux_residual"
        yield from (f"enc.{side}_block{i}" for i in range(network.num_res_blocks))
    for side in reversed(sides):
        inner = ("in0", "in1") if side == sides[-1] else ("up",)
        yield from (f"dec.{side}_{name}" for name in inner)
        yield from (f"dec.{side}_block{i}" for i in range(network.num_res_blocks + 1))
    last = "out" if adm else f"dec.{sides[0]}_aux"
    yield from (f"{last}_norm", f"{last}_conv")


def _assign(
    arrays: dict[str, np.ndarray], names: dict[Location, list[str]], expected: dict[Location, Any]
) -> Any:
    """The expected parameters, each from the first of its names that is in `arrays`."""
    params, missing, misshapen = {}, [], []
    for path, leaf in expected.items():
        name = next((name for name in names[path] if name in arrays), None)
        if name is None:
            missing.append(names[path][0])
            continue
        value = _to_linen(arrays.pop(name), is_weight=name.endswith("weight"))
        if value.shape != leaf.shape:
            misshapen.append(f"{name}: {value.shape}, not {leaf.shape}")
        params[path] = jnp.asarray(value, leaf.dtype).block_until_ready()
        weights.release(value)
    if missing or arrays or misshapen:
        raise ValueError(
            "the state dict does not fit this config: "
            f"missing {missing or 'none'}; left over {sorted(arrays) or 'none'}; "
            f"of another shape (channels last) {misshapen or 'none'}"
        )
    return flax.traverse_util.unflatten_dict(params)


def _layers(config: Config) -> tuple[list[str], dict[Location, Any]]:
    """The network's layers in calling order, and the shapes of its parameters by path."""
    model = create(config)
    order = []
    if isinstance(model, NCSNpp) and not model.conditional and model.embedding_type == "fourier":
        order.append(UNUSED)

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
    """Moves channels last: [out, in, h, w] to [h, w, in, out], and [out, in] to [in, out]."""
    if is_weight and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if is_weight and array.ndim == 2:
        return array.T
    return array


def inception(state_dict: Mapping[str, np.ndarray]) -> dict[str, dict[str, jax.Array]]:
    """Parameters of models.inception from the published `pt_inception-2015-12-05-6726825d.pth`.

    Each batch normalisation is folded into the convolution before it.

    Raises:
        ValueError: names are missing or left over, or an array has another shape.
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
