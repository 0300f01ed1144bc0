"""Formats of score_sde (Song et al. 2021): DDPM, NCSN++ and DDPM++, from PyTorch and from JAX.

The PyTorch version keeps its layers in a list in calling order: `all_modules.i` is the i-th layer
that ours calls. The JAX version numbers them by their classes, as ours does. Inside a layer the
names agree. Neither kind of file says which network it holds: the card or the user does.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from models.conditions import OURS
from models.ddpm import DDPM
from models.ncsnpp import NCSNpp
from models.published.base import (
    CHECKPOINT,
    OPTIONS,
    About,
    Arrays,
    Card,
    Fields,
    Format,
    Found,
    Skeleton,
    Source,
    Table,
    Tensor,
    hashable,
)
from models.weights import torch_writer

LEAVES = {"kernel": "weight", "scale": "weight"}
DENSE_LEAVES = {"kernel": "W", "bias": "b"}  # of the layers that both versions call NIN
LAYERS = (  # of blocks, in the order in which PyTorch's version makes them
    *("Conv2d_0", "GroupNorm_0", "Conv_0", "Dense_0", "GroupNorm_1", "Conv_1", "Conv_2"),
    *("NIN_0", "NIN_1", "NIN_2", "NIN_3"),
)
PLAIN = {  # fields of our networks that score_sde's do not have, as they are there
    **dict.fromkeys(("num_classes", "augment_dim"), 0),
    **dict.fromkeys(("label_confidence", "low_res", "learned_variance"), False),
    **OURS,
    **{"text": "", "fourier_features": (), "log_labels": True},
}
SECTIONS = ("model.", "data.", "training.", "sampling.", "optim.")  # of score_sde's configs
BLOCKS = {"biggan": "ResnetBlockBigGANpp", "ddpm": "ResnetBlockDDPMpp"}
MODELS = (  # (folder, config of ours, published FID)
    ("ve/cifar10_ncsnpp", "cifar10:ve_ncsnpp", "2.45"),
    ("ve/cifar10_ncsnpp_continuous", "cifar10:ve_ncsnpp_continuous", "2.38"),
    ("ve/cifar10_ncsnpp_deep_continuous", "cifar10:ve_ncsnpp_deep_continuous", "2.20"),
    ("vp/cifar10_ncsnpp", "cifar10:vp_ncsnpp", ""),
    ("vp/cifar10_ncsnpp_continuous", "cifar10:vp_ncsnpp_continuous", ""),
    ("vp/cifar10_ncsnpp_deep_continuous", "cifar10:vp_ncsnpp_deep_continuous", ""),
    ("vp/cifar10_ddpmpp", "cifar10:vp_ddpmpp", "2.78"),
    ("vp/cifar10_ddpmpp_continuous", "cifar10:vp_ddpmpp_continuous", "2.55"),
    ("vp/cifar10_ddpmpp_deep_continuous", "cifar10:vp_ddpmpp_deep_continuous", "2.41"),
    ("subvp/cifar10_ncsnpp_continuous", "cifar10:subvp_ncsnpp_continuous", ""),
    ("subvp/cifar10_ncsnpp_deep_continuous", "cifar10:subvp_ncsnpp_deep_continuous", ""),
    ("subvp/cifar10_ddpmpp_continuous", "cifar10:subvp_ddpmpp_continuous", "2.61"),
    ("subvp/cifar10_ddpmpp_deep_continuous", "cifar10:subvp_ddpmpp_deep_continuous", "2.41"),
    ("ve/ffhq_256_ncsnpp_continuous", "ffhq:ve_ncsnpp_continuous_256", ""),
    ("ve/ffhq_ncsnpp_continuous", "ffhq:ve_ncsnpp_continuous_1024", ""),
    ("ve/celebahq_256_ncsnpp_continuous", "celebahq:ve_ncsnpp_continuous_256", ""),
    ("ve/celebahq_ncsnpp_continuous", "celebahq:ve_ncsnpp_continuous_1024", ""),
    ("ve/bedroom_ncsnpp_continuous", "lsun:bedroom_ve_ncsnpp_continuous", ""),
    ("ve/church_ncsnpp_continuous", "lsun:church_ve_ncsnpp_continuous", ""),
    ("vp/ddpm/cifar10", "cifar10:vp_ddpm", "3.24"),
    ("vp/ddpm/celebahq", "celebahq:vp_ddpm_256", ""),
    ("vp/ddpm/bedroom", "lsun:bedroom_vp_ddpm", ""),
    ("vp/ddpm/church", "lsun:church_vp_ddpm", ""),
)
CARDS = tuple(
    Card(
        (f"*/{folder}/*", f"{folder}/*"),
        f"{folder} of score_sde",
        "https://github.com/yang-song/score_sde_pytorch",
        "Apache-2.0",
        fid and f"FID {fid}",
        config=config,
    )
    for folder, config, fid in MODELS
)


class ScoreSDE(Format):
    """A checkpoint of score_sde's PyTorch version, or its tensors alone."""

    name = "score_sde"
    title = "a checkpoint of score_sde"
    cards = CARDS

    def find(self, source: Source) -> Found | None:
        content = source.content if isinstance(source.content, dict) else {}
        fields = {k: hashable(v) for k, v in source.options.items() if k.startswith(SECTIONS)}
        if self.clean(_arrays(content)):
            return Found(_arrays(content), fields)
        model, ema = content.get("model"), content.get("ema")
        if not isinstance(model, dict) or not self.clean(_arrays(model)):
            return None
        if not isinstance(ema, dict) or not isinstance(ema.get("shadow_params"), list | tuple):
            raise ValueError(
                f"{source.path} holds weights of score_sde, but no list ema.shadow_params, their "
                "averages: give a whole checkpoint"
            )
        last, step = _arrays(model), int(content.get("step", 0))
        return Found(averaged(last, ema["shadow_params"]), fields, step=step, last=last)

    def clean(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The tensors of layers without the prefix "module."."""
        kept = {
            match[1]: array
            for name, array in arrays.items()
            if (match := re.fullmatch(r"(?:module\.)?(all_modules\..+)", name))
        }
        second = kept.get("all_modules.1.weight")
        if second is not None and second.ndim == 4:
            kept.pop("all_modules.0.W", None)  # of an unconditional NCSN++, which never uses it
        return kept

    def table(self, skeleton: Skeleton) -> Table:
        network = _checked(skeleton.network)
        unused = isinstance(network, NCSNpp) and network.embedding_type == "fourier"
        first = int(unused and not network.conditional)
        numbers = {layer: i for i, layer in enumerate(skeleton.calls, first)}
        table = {}
        for layer, *modules, leaf in skeleton.shapes:
            nin = bool(modules) and modules[-1].startswith("NIN")
            theirs = (DENSE_LEAVES if nin else LEAVES).get(leaf, leaf)
            inside = _inside(layer, modules)
            name = ".".join(["all_modules", str(numbers[layer]), *inside, theirs])
            table[layer, *modules, leaf] = Tensor(name, rows=nin)
        return table

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name.startswith(SECTIONS)}

    def constants(self, skeleton: Skeleton) -> dict[str, np.ndarray]:
        network = skeleton.network
        first, last = np.log(network.sigma_max), np.log(network.sigma_min)
        return {"sigmas": np.exp(np.linspace(first, last, network.num_scales)).astype(np.float32)}

    def write(self, folder: Path, arrays: Arrays, options: dict[str, Any], about: About) -> Path:
        """Writes a checkpoint whose weights are their own averages, with a fresh optimizer."""
        path, fields = folder / CHECKPOINT, about.fields
        arrays = {name: arrays[name] for name in sorted(arrays, key=_place)}
        trained = [name for name in arrays if name != "sigmas" and not _is_fourier(name, arrays)]
        adam = {
            "lr": fields["optim.lr"],
            "betas": (fields["optim.beta1"], fields["optim.beta2"]),
            "eps": fields["optim.eps"],
            "weight_decay": fields["optim.weight_decay"],
            "amsgrad": False,
            "params": list(range(len(trained))),
        }
        average = {"decay": fields["model.ema_rate"], "num_updates": about.step}
        content = {
            "optimizer": {"state": {}, "param_groups": [adam]},
            "model": {f"module.{name}": array for name, array in arrays.items()},
            "ema": average | {"shadow_params": [arrays[name] for name in trained]},
            "step": about.step,
        }
        torch_writer.write(path, content)
        (folder / OPTIONS).write_text(json.dumps(options, indent=2) + "\n")
        return path


class FlaxScoreSDE(Format):
    """A checkpoint of score_sde's JAX version."""

    name = "score_sde_jax"
    title = "a checkpoint of score_sde's JAX version"
    cards = CARDS

    def find(self, source: Source) -> Found | None:
        content = source.content
        if not isinstance(content, dict) or "params_ema" not in content:
            return None
        step = int(content.get("step", 0))
        last = content.get("optimizer", {}).get("target")
        return Found(_joined(content["params_ema"]), {}, step=step, last=last and _joined(last))

    def table(self, skeleton: Skeleton) -> Table:
        network = _checked(skeleton.network)
        classes = {"FourierEmbedding": "GaussianFourierProjection", "Attention": "AttnBlockpp"}
        classes |= {"ResnetBlock": BLOCKS.get(getattr(network, "resblock_type", ""), "")}
        if isinstance(network, DDPM):
            classes |= {"ResnetBlock": "ResnetBlockDDPM", "Attention": "AttnBlock"}
        between = _resampled_between(network)
        table = {}
        for layer, *modules, leaf in skeleton.shapes:
            kind, number = layer.rsplit("_", 1)
            inside = _inside(layer, modules)
            parent = inside[-1] if inside else kind
            if parent.startswith("NIN"):
                leaf_name = DENSE_LEAVES[leaf]
            else:
                leaf_name = "weight" if parent == "Conv2d_0" and leaf == "kernel" else leaf
            place = int(number) * (2 if kind in between else 1)
            name = "/".join([f"{classes.get(kind, kind)}_{place}", *inside, leaf_name])
            table[layer, *modules, leaf] = Tensor(name, rows=True)
        return table


def averaged(model: Arrays, averages: list[Any] | tuple[Any, ...]) -> dict[str, np.ndarray]:
    """The averaged weights by name; what is not trained is the model's.

    A checkpoint stores the averages as a list without names, in the order of the trained
    parameters. Fourier frequencies and the buffer "sigmas" are not trained.

    Raises:
        ValueError: the averages do not fit the model's parameters.
    """
    trained = [
        name for name in model if not name.endswith("sigmas") and not _is_fourier(name, model)
    ]
    if len(averages) != len(trained):
        raise ValueError(
            f"the checkpoint's ema.shadow_params holds {len(averages)} arrays, but its model has "
            f"{len(trained)} trained parameters"
        )
    misshapen = [
        f"{name}: {np.shape(average)}, not {model[name].shape}"
        for name, average in zip(trained, averages, strict=True)
        if np.shape(average) != model[name].shape
    ]
    if misshapen:
        raise ValueError(f"the checkpoint's averages do not fit its model: {misshapen}")
    return {**model, **dict(zip(trained, averages, strict=True))}


def _checked(network: Any) -> Any:
    """The network. Raises ValueError for one that score_sde does not have."""
    other = sorted(n for n, value in PLAIN.items() if getattr(network, n, value) != value)
    if not isinstance(network, NCSNpp | DDPM) or other:
        raise ValueError(
            f"the network {type(network).__name__} is none of score_sde's: it has 'ncsnpp' and "
            f"'ddpm'{f' with other values of {other}' if other else ''}"
        )
    return network


def _arrays(content: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: value for name, value in content.items() if isinstance(value, np.ndarray)}


def _place(name: str) -> tuple[int, ...]:
    """The place of a tensor in the order of PyTorch's parameters, in which averages are stored."""
    match = re.fullmatch(r"all_modules\.(\d+)(?:\.(\w+))?\.(\w+)", name)
    if match is None:  # the buffer "sigmas"
        return (-1,)
    number, layer, leaf = match.groups()
    return int(number), LAYERS.index(layer) if layer else 0, leaf in ("bias", "b")


def _is_fourier(name: str, arrays: Arrays) -> bool:
    return name.endswith(".W") and arrays[name].ndim == 1


def _joined(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    joined: Any = flax.traverse_util.flatten_dict(tree, sep="/")
    return joined


def _inside(layer: str, modules: Iterable[str]) -> list[str]:
    """The modules inside a layer. Only ours has the bias of a filtered upsampling outside."""
    return list(modules) or (["Conv2d_0"] if layer.startswith("Upsample") else [])


def _resampled_between(network: Any) -> set[str]:
    """Classes of which every other layer has no parameters: it resamples a pyramid of images.

    Those layers are counted too.
    """
    if getattr(network, "resblock_type", "") != "ddpm":
        return set()
    pyramids = {"Downsample": network.progressive_input, "Upsample": network.progressive}
    return {kind for kind, pyramid in pyramids.items() if pyramid in ("input_skip", "output_skip")}
