"""The protocol of a published format: from a file's tensors to our networks, and back.

    file or folder --read--> Source --Format.find--> Found: tensors by name, config fields
    config fields --models.create--> network --Format.table--> which tensor is which parameter
    assign(tensors, table) -> parameters          extract(parameters, table) -> tensors

A new format is a new file with a Format, and a line in published/__init__.py.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from models import weights
from models.learned_schedule import SCHEDULE
from models.log_variance import LOG_VARIANCE
from models.weights import torch_writer

WEIGHTS, CHECKPOINT, OPTIONS = "weights.pt", "checkpoint.pth", "options.json"
"""Files that Format.write makes: a network's tensors, or a whole checkpoint, and its options."""
Location = tuple[str, ...]
"""Path of a parameter: the names of its modules from the outside in, then its own name."""
Arrays = Mapping[str, np.ndarray]
Fields = dict[str, Any]
"""Values of config fields by their full names, such as {"model.nf": 128}."""


class Tensor(NamedTuple):
    """A published tensor that holds one of our parameters.

    Kernels are transposed between [out, in, ...] there and [..., in, out] here, unless they are
    tables of embeddings [n, features]. Other parameters are the same on both sides.

    Attributes:
        name: of the tensor.
        window: trailing axes of length 1, which a dense layer has if it is published as a
            convolution.
        part: 0, 1 or 2 for the queries, keys or values of a joint layer; None: a layer of its own.
        order: nesting of the joint layer's rows, from slow to fast: parts "p", heads "h", channels
            of a head "c".
        heads: heads of the joint layer.
        copies: further names under which the same tensor is published.
        rows: a kernel that is published as a table of embeddings.
        patch: side of the patches, in pixels, of a dense layer that is published as a convolution.
        blocks: the order of equal blocks along an axis: the i-th published one is our blocks[i]-th.
            (): one block.
        axis: of the published tensor, that the blocks are along.
    """

    name: str
    window: int = 0
    part: int | None = None
    order: str = "phc"
    heads: int = 1
    copies: tuple[str, ...] = ()
    rows: bool = False
    patch: int = 0
    blocks: tuple[int, ...] = ()
    axis: int = 0


Table = Mapping[Location, Tensor]


@dataclasses.dataclass(frozen=True)
class Source:
    """A published file or folder, read as data.

    Attributes:
        path: of the file or folder.
        content: of the file with the weights, from models.weights.read.
        options: content of config.json, of a folder that has one.
        parts: the other parts of a folder, by name, such as "scheduler": their options.
        repository: its name on the Hugging Face hub, if it was downloaded from there.
    """

    path: Path
    content: Any
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    repository: str = ""


class Latents(NamedTuple):
    """The normalisation of latents: a model's data are (latent - mean) / std, channel by channel.

    Attributes:
        mean: of each channel.
        std: likewise, the standard deviation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Found:
    """A published model as its format understands it.

    Attributes:
        arrays: tensors of the averaged weights, by name.
        fields: config fields that follow from the file.
        assumed: config fields that the file does not tell, with what is usual in this format. A
            card or the user may know better.
        step: the training step, if the file knows it.
        last: tensors of the weights before averaging; None: not published.
        latents: of a model in the latents of an autoencoder; None: a model of images. Its fields
            describe latents: data.image_size and data.num_channels are theirs. The normalisation
            becomes data.latent_mean and data.latent_std.
        card: what is known of the model, if the file says it.
    """

    arrays: Arrays
    fields: Fields
    assumed: Fields = dataclasses.field(default_factory=dict)
    step: int | None = None
    last: Arrays | None = None
    latents: Latents | None = None
    card: "Card | None" = None

    def __post_init__(self):
        if self.latents is not None:
            mean, std = self.latents
            normalisation = {"data.latent_mean": mean, "data.latent_std": std}
            object.__setattr__(self, "fields", self.fields | normalisation)


@dataclasses.dataclass(frozen=True)
class Card:
    """A published model: what is known of it beside its file.

    Attributes:
        files: patterns (fnmatch) of the names of its file, folder or hub repository.
        model: what it is, such as "ADM, ImageNet 64 x 64, class-conditional".
        source: address of its publication.
        license: of the weights, by SPDX name where there is one.
        figure: the published figure, such as "FID 2.07".
        fields: config fields that the file does not tell.
        config: of ours with all of its fields, such as "cifar10:ve_ncsnpp"; "": none is needed.
        commercial: False if the license forbids commercial use.
    """

    files: tuple[str, ...]
    model: str
    source: str
    license: str
    figure: str = ""
    fields: Fields = dataclasses.field(default_factory=dict)
    config: str = ""
    commercial: bool = True


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A network without weights.

    Attributes:
        network: the linen module.
        shape: of its input, without the batch: (H, W, C).
        calls: names of its outermost layers, in calling order.
        shapes: shapes and dtypes of its parameters by location.
    """

    network: Any
    shape: tuple[int, ...]
    calls: tuple[str, ...]
    shapes: Mapping[Location, jax.ShapeDtypeStruct]


class About(NamedTuple):
    """Facts that a written file may hold beside its tensors.

    fields: all config fields by their full names. step: of training. latents: the normalisation of
    a model's latents, {"mean": [...], "std": [...]}; None for other models. card: fields of the
    Card of the published model that the weights are of, or that their training began with.
    """

    fields: Fields
    step: int = 0
    latents: Mapping[str, Any] | None = None
    card: Mapping[str, Any] | None = None


class Format:
    """A published format. Subclasses say how to recognise a file, and which tensor is which.

    Attributes:
        name: in --format and in records, such as "score_sde".
        title: for messages, such as "a checkpoint of score_sde".
        cards: the models that are published in this format.
        group: another name in --format, which several formats share; "": none.
    """

    name: str
    title: str
    cards: tuple[Card, ...] = ()
    group: str = ""

    def find(self, source: Source) -> Found | None:
        """The model in a source; None if it is of another format.

        Raises:
            ValueError: it is of this format, but has something that we do not have.
        """
        raise NotImplementedError

    def table(self, skeleton: Skeleton) -> Table:
        """The published tensor of every parameter.

        Raises:
            ValueError: the network is none that is published in this format.
        """
        raise NotImplementedError

    def clean(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The tensors of parameters by their names in the table: no prefixes, no constants."""
        return dict(arrays)

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        """The original program's arguments or config.json of such a network.

        `fields` are all config fields of the model by their full names.

        Raises:
            ValueError: the original program has no such network.
        """
        raise ValueError(f"{self.title} cannot be written")

    def constants(self, skeleton: Skeleton) -> dict[str, np.ndarray]:
        """Tensors that a file of this format holds beside the parameters, with their values."""
        return {}

    def write(self, folder: Path, arrays: Arrays, options: dict[str, Any], about: About) -> Path:
        """Writes what the original program reads, and returns its path.

        Here that is a file of PyTorch with the tensors by name, weights.pt, and the arguments of
        the network, options.json.

        Args:
            folder: an empty one.
            arrays: the tensors, with constants.
            options: from `options`.
            about: what else is known of the model.
        """
        (folder / OPTIONS).write_text(json.dumps(options, indent=2) + "\n")
        torch_writer.write(folder / WEIGHTS, arrays)
        return folder / WEIGHTS


@functools.lru_cache(maxsize=16)
def skeleton(network: nn.Module, shape: tuple[int, ...], *labels: Any) -> Skeleton:
    """The network's calls and parameters for inputs of a shape [H, W, C], traced without weights.

    Tracing a large network takes seconds, so the last skeletons are kept.

    Args:
        network: called with an input and with noise labels.
        shape: of the input, without the batch.
        *labels: what it is called with beside the input; nothing: one noise label.
    """
    calls: list[str] = []

    def record(call, args, kwargs, context):
        if context.method_name == "__call__" and len(context.module.path) == 1:
            calls.append(context.module.name)
        return call(*args, **kwargs)

    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    labels = labels or (jax.ShapeDtypeStruct((1,), jnp.float32),)
    with nn.intercept_methods(record):
        variables = jax.eval_shape(network.init, jax.random.key(0), x, *labels)
    shapes: Any = flax.traverse_util.flatten_dict(variables["params"])
    return Skeleton(network, shape, tuple(calls), shapes)


def hashable(value: Any) -> Any:
    """A value of a JSON file with tuples for lists, as configs have them."""
    return tuple(map(hashable, value)) if isinstance(value, list) else value


def convert(arrays: Arrays, table: Table, skeleton: Skeleton) -> Iterator[np.ndarray]:
    """The network's parameters one by one, from published tensors whose memory is then freed.

    They come in the order of skeleton.shapes, so that a model that fits into memory only once can
    be converted.

    Args:
        arrays: tensors by name, from Format.clean.
        table: from Format.table.
        skeleton: of the network.

    Raises:
        ValueError: tensors are missing or unexpected, have another shape, or copies differ. All of
            them are checked before the first parameter is given.
    """
    used = {name for tensor in table.values() for name in (tensor.name, *tensor.copies)}
    missing = sorted({tensor.name for tensor in table.values()} - arrays.keys())
    unexpected = sorted(arrays.keys() - used)
    misshapen = []
    for location, leaf in skeleton.shapes.items():
        tensor = table[location]
        expected = _published_shape(leaf.shape, tensor, location)
        if tensor.name in arrays and arrays[tensor.name].shape != expected:
            misshapen.append(f"{tensor.name}: {arrays[tensor.name].shape}, not {expected}")
    if missing or unexpected or misshapen:
        raise ValueError(
            "the state dict does not fit this config: "
            f"missing {_listed(missing)}; unexpected {_listed(unexpected)}; "
            f"of another shape {_listed(misshapen)}"
        )
    for tensor in table.values():
        _check_copies(arrays, tensor)
    return _converted(arrays, table, skeleton)


def _listed(names: list[str], most: int = 20) -> str:
    """Names for a message, which has the first ones of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{names[:most]}{more}" if names else "none"


def _converted(arrays: Arrays, table: Table, skeleton: Skeleton) -> Iterator[np.ndarray]:
    for location, leaf in skeleton.shapes.items():
        array = arrays[table[location].name]
        # Copied once, in the order of ours: every further copy would leave gaps in the memory.
        yield np.array(_to_ours(array, table[location], location), leaf.dtype, order="C")
        weights.release(array)


def assign(arrays: Arrays, table: Table, skeleton: Skeleton) -> Any:
    """Parameters of a network from published tensors. Arguments and errors are those of convert."""
    values = zip(skeleton.shapes, convert(arrays, table, skeleton), strict=True)
    params = {location: jax.device_put(value).block_until_ready() for location, value in values}
    return flax.traverse_util.unflatten_dict(params)


def extract(params: Any, table: Table) -> dict[str, np.ndarray]:
    """Published tensors by name from parameters: the inverse of assign.

    Parameters that are trained beside the network, of its loss or its noise schedule, are left out.
    """
    groups: dict[str, dict[int, np.ndarray]] = {}
    tensors: dict[str, Tensor] = {}
    own = {name: tree for name, tree in params.items() if name not in (SCHEDULE, LOG_VARIANCE)}
    for location, leaf in flax.traverse_util.flatten_dict(own).items():
        tensor = table[location]
        groups.setdefault(tensor.name, {})[tensor.part or 0] = _to_theirs(
            np.asarray(leaf), tensor, location
        )
        tensors[tensor.name] = tensor
    arrays = {}
    for name, group in groups.items():
        tensor = tensors[name]
        array = group[0] if tensor.part is None else _join([group[i] for i in range(3)], tensor)
        arrays |= dict.fromkeys((name, *tensor.copies), np.asarray(array, order="C"))
    return arrays


def _transposed(location: Location, tensor: Tensor) -> bool:
    return location[-1] == "kernel" and not tensor.rows


def _published_shape(ours: tuple[int, ...], tensor: Tensor, location: Location) -> tuple[int, ...]:
    if _transposed(location, tensor):
        *window, inputs, outputs = ours
        ours = (outputs, inputs, *window)
    if tensor.patch:
        ours = (ours[0], ours[1] // tensor.patch**2, tensor.patch, tensor.patch)
    first = () if not ours else (ours[0] * (1 if tensor.part is None else 3),)
    return (*first, *ours[1:], *[1] * tensor.window)


def _to_ours(array: np.ndarray, tensor: Tensor, location: Location) -> np.ndarray:
    if tensor.part is not None:
        array = _split(array, tensor)[tensor.part]
    if tensor.window:
        array = array.reshape(array.shape[: -tensor.window])
    if tensor.patch:
        array = np.moveaxis(array, 1, -1).reshape(len(array), -1)
    array = _reordered(array, np.argsort(tensor.blocks), tensor.axis)
    if _transposed(location, tensor):
        array = np.moveaxis(array, (1, 0), (-2, -1))
    return array


def _to_theirs(array: np.ndarray, tensor: Tensor, location: Location) -> np.ndarray:
    if _transposed(location, tensor):
        array = np.moveaxis(array, (-2, -1), (1, 0))
    array = _reordered(array, tensor.blocks, tensor.axis)
    if tensor.patch:
        side = tensor.patch
        array = np.moveaxis(array.reshape(len(array), side, side, -1), -1, 1)
    return array.reshape((*array.shape, *[1] * tensor.window))


def _reordered(array: np.ndarray, order: Iterable[int], axis: int) -> np.ndarray:
    """The array with equal blocks along an axis in this order, by their numbers."""
    if not (order := list(order)):
        return array
    blocks = np.split(array, len(order), axis)
    return np.concatenate([blocks[i] for i in order], axis)


def _split(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The parts [3, rows, ...] of a joint layer [3 rows, ...]."""
    sizes = {"p": 3, "h": tensor.heads, "c": len(array) // (3 * tensor.heads)}
    nested = array.reshape(*(sizes[axis] for axis in tensor.order), *array.shape[1:])
    nested = np.moveaxis(nested, [tensor.order.index(axis) for axis in "phc"], (0, 1, 2))
    return nested.reshape(3, -1, *array.shape[1:])


def _join(parts: list[np.ndarray], tensor: Tensor) -> np.ndarray:
    """The inverse of _split."""
    rows, *rest = parts[0].shape
    nested = np.stack(parts).reshape(3, tensor.heads, rows // tensor.heads, *rest)
    nested = np.moveaxis(nested, (0, 1, 2), [tensor.order.index(axis) for axis in "phc"])
    return nested.reshape(3 * rows, *rest)


def _check_copies(arrays: Arrays, tensor: Tensor) -> None:
    for copy in filter(arrays.__contains__, tensor.copies):
        if not np.array_equal(arrays[copy], arrays[tensor.name]):
            raise ValueError(
                f"{copy} differs from {tensor.name}, but a model of this kind has one layer for "
                "both: give the weights of such a model"
            )
        weights.release(arrays[copy])
