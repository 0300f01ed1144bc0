"""Formats of encoders: guided-diffusion's noisy classifiers, and discriminators that use one.

A pair of discriminator guidance (Kim et al. 2023) is a folder with the two files of

    x --classifier up to its middle block--> features --discriminator--> one logit
"""

import math
from typing import Any

import numpy as np

from models import weights
from models.adm_encoder import ADMEncoder, ADMHead
from models.discriminator import Discriminator
from models.published.base import (
    Arrays,
    Card,
    Fields,
    Format,
    Found,
    Location,
    Skeleton,
    Source,
    Table,
    Tensor,
)
from models.published.openai import layers
from models.published.openai.cards import CLASSIFIERS, PAIRS
from models.published.openai.unet import NOISE
from models.registry import HEAD

POOLS = {  # by a tensor that the pools after it do not have
    "attention": "out.2.positional_embedding",
    "spatial_v2": "out.1.weight",
    "adaptive": "out.3.weight",
    "spatial": "out.2.weight",
}
OUTPUTS = {  # the last layer of each pool
    "attention": "out.2.c_proj",
    "adaptive": "out.3",
    "spatial_v2": "out.3",
    "spatial": "out.2",
}
UNUSED = "classifier.out."  # of a pair: what its features do not pass


class GuidedClassifier(Format):
    """A file of guided-diffusion's EncoderUNetModel."""

    name = "guided_diffusion_classifier"
    title = "a noisy classifier of guided-diffusion"
    group = "guided_diffusion"
    cards: tuple[Card, ...] = CLASSIFIERS

    def find(self, source: Source) -> Found | None:
        arrays = layers.arrays_of(source)
        if arrays is None or layers.entries(arrays, "output_blocks"):
            return None
        fields, assumed = encoder_fields(arrays)
        if fields["data.num_classes"] == 1 or "label_emb.weight" in arrays:
            raise ValueError(
                f"{source.path} looks like a discriminator that reads the features of a "
                "classifier: put its file and that of the classifier into a folder of their own, "
                "and give the folder"
            )
        fields |= {"model.name": "adm_classifier", "model.class_conditional": False}
        assumed |= NOISE | {"model.use_new_attention_order": False, "model.dropout": 0.0}
        return Found(arrays, fields | layers.told(source.options), assumed)

    def table(self, skeleton: Skeleton) -> Table:
        network = _encoder(skeleton.network, self.title)
        names = encoder_names(network, skeleton.shape[0])
        return layers.table(names, network, skeleton.shapes, _order(network))

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        network = _encoder(skeleton.network, self.title)
        return layers.options(network, skeleton.shape[0]) | {
            "in_channels": skeleton.shape[-1],
            "out_channels": network.num_outputs,
            "pool": network.pool,
        }


class DiscriminatorPair(Format):
    """A folder with a classifier and the discriminator that reads its features.

    The classifier's own last layers are left out: the features do not pass them.
    """

    name = "discriminator_guidance"
    title = "a pair of discriminator guidance"
    cards: tuple[Card, ...] = PAIRS

    def find(self, source: Source) -> Found | None:
        arrays = _pair(source)
        if arrays is None:
            return None
        classifier, discriminator = (
            {n.removeprefix(p): a for n, a in arrays.items() if n.startswith(p)}
            for p in ("classifier.", "discriminator.")
        )
        fields, assumed = encoder_fields(classifier)
        own, likely = encoder_fields(discriminator)
        channels = classifier["middle_block.2.out_layers.3.weight"].shape[0]
        if own["data.num_channels"] != channels or own["data.num_classes"] != 1:
            raise ValueError(
                f"{source.path} holds two encoders that are no pair: the discriminator must read "
                f"the {channels} features of the classifier, but reads "
                f"{own['data.num_channels']} and gives {own['data.num_classes']} numbers"
            )
        levels = len((fields | assumed)["model.ch_mult"])
        labels = discriminator.get("label_emb.weight")
        fields |= _of_head(own)
        assumed |= _of_head(likely)
        side = (likely | own)["data.image_size"] << (levels - 1)
        side = fields.get("data.image_size", side)
        fields |= {
            "model.name": "discriminator",
            "model.encoder": "adm_classifier",
            "model.head": "adm_classifier",
            "model.class_conditional": labels is not None,
            "data.num_classes": 0 if labels is None else labels.shape[0],
            "data.image_size": side,
            "training.sde": "edm",
            "training.continuous": True,
        }
        assumed = {name: v for name, v in assumed.items() if name not in fields} | {
            # The classifier of 64 x 64 pixels knows the cosine schedule.
            "model.parametrization": "edm_cosine" if side == 64 else "edm_vp",
            "model.use_new_attention_order": False,
            f"model.{HEAD}use_new_attention_order": False,
            "model.dropout": 0.0,
            "noise_density.name": "log_uniform",
        }
        return Found(arrays, fields, assumed)

    def clean(self, arrays: Arrays) -> dict[str, np.ndarray]:
        return {name: array for name, array in arrays.items() if not name.startswith(UNUSED)}

    def table(self, skeleton: Skeleton) -> Table:
        network: Any = skeleton.network
        if not isinstance(network, Discriminator) or not isinstance(network.reader, ADMHead):
            raise ValueError(
                f"the network {type(network).__name__} is none of {self.title}: set config.model."
                "name='discriminator', .encoder='adm_classifier' and .head='adm_classifier'"
            )
        encoder = _encoder(network.encoder, self.title)
        height = skeleton.shape[0] >> (len(encoder.ch_mult) - 1)
        parts = {
            "encoder": ("classifier.", encoder, encoder_names(encoder, skeleton.shape[0])),
            "head": ("discriminator.", network.reader, encoder_names(network.reader, height)),
        }
        made: dict[Location, Tensor] = {}
        for part, (prefix, its_network, names) in parts.items():
            shapes = {p[1:]: leaf for p, leaf in skeleton.shapes.items() if p[0] == part}
            own = layers.table(names, its_network, shapes, _order(its_network))
            made |= {(part, *p): t._replace(name=prefix + t.name) for p, t in own.items()}
        return made


def encoder_names(network: ADMEncoder, height: int) -> layers.Names:
    """The published names of an encoder's layers."""
    names = layers.Names(network, height)
    if network.pool in ("attention", "adaptive"):
        names.add("GroupNorm", "out.0")
        attention = network.pool == "attention"
        names.add("AttentionPool", "out.2") if attention else names.add("Dense", "out.3")
        return names
    names.add("Dense", "out.0")
    if network.pool == "spatial_v2":
        names.add("GroupNorm", "out.1")
    names.add("Dense", OUTPUTS[network.pool])
    return names


def encoder_fields(arrays: Arrays) -> tuple[Fields, Fields]:
    """The fields of an encoder that follow from its tensors, and those that are only likely."""
    fields, assumed = layers.fields(arrays)
    pool = next((pool for pool, name in POOLS.items() if name in arrays), None)
    if pool is None or f"{OUTPUTS[pool]}.weight" not in arrays:
        outs = sorted(name for name in arrays if name.startswith("out."))
        raise ValueError(
            f"an encoder of guided-diffusion with the last layers {outs}, which are of no pooling "
            f"that is known here: known are {', '.join(POOLS)}"
        )
    fields |= {
        "model.pool": pool,
        "data.num_classes": arrays[f"{OUTPUTS[pool]}.weight"].shape[0],
    }
    mults = (fields | assumed)["model.ch_mult"]
    if pool == "attention":
        side = math.isqrt(arrays[POOLS[pool]].shape[1] - 1)
        fields["data.image_size"] = side << (len(mults) - 1)
    else:
        assumed["data.image_size"] = 8 << (len(mults) - 1)
    return fields, assumed


def _of_head(fields: Fields) -> Fields:
    """The fields of a network as those of a discriminator's head."""
    own = ((name.removeprefix("model."), name) for name in fields if name.startswith("model."))
    return {f"model.{HEAD}{last}": fields[name] for last, name in own}


def _pair(source: Source) -> Arrays | None:
    """The tensors of a folder with two encoders, with "classifier." or "discriminator." before."""
    content = source.content
    if not isinstance(content, dict) or len(content) != 2:
        return None
    parts = [layers.arrays_of(Source(source.path, part)) for part in content.values()]
    if any(part is None or layers.entries(part, "output_blocks") for part in parts):
        return None
    both = sorted(filter(None, parts), key=lambda part: encoder_fields(part)[0]["data.num_classes"])
    named = zip(("discriminator", "classifier"), both, strict=True)
    return weights.state_dict(dict(named))


def _encoder(network: Any, title: str) -> ADMEncoder:
    if not isinstance(network, ADMEncoder) or not network.centered:
        raise ValueError(
            f"the network {type(network).__name__} with these fields is none of {title}: set "
            "config.model.name='adm_classifier' and config.data.centered=True"
        )
    return network


def _order(network: ADMEncoder) -> str:
    return "phc" if network.use_new_attention_order else "hpc"
