"""Formats of OpenAI's U-Nets: guided-diffusion, improved-diffusion, consistency-models' EDM.

Weights tell neither the order of attention's rows, nor its heads, nor the noise of the training.
The cards know these of the published files.
"""

from fnmatch import fnmatch
from typing import Any

from models.adm import ADM
from models.conditions import OURS
from models.published.base import Arrays, Card, Fields, Format, Found, Skeleton, Source, Table
from models.published.openai import layers
from models.published.openai.cards import CONSISTENCY, DIFFUSION

NOISE: Fields = {  # of DDPM's chain
    "training.sde": "vpsde",
    "training.continuous": False,
    "model.num_scales": 1000,
    "model.parametrization": "epsilon",
    "model.label_scale": 1.0,
}
UNLIKE = {"augment_dim": 0, "label_confidence": False, "text": "", "low_res": False} | OURS
SIDES = {(1, 2, 2, 2): 32}  # of images by multipliers of the channels; others end at 8 pixels
CONSISTENCY_MODELS = tuple(
    f"{kind}_{data}*" for kind in ("cd", "ct") for data in ("imagenet64", "bedroom256", "cat256")
)


class GuidedDiffusion(Format):
    """A file of guided-diffusion's UNetModel, or of improved-diffusion's."""

    name = "guided_diffusion"
    title = "a U-Net of guided-diffusion"
    cards: tuple[Card, ...] = DIFFUSION
    window = 1  # trailing axes of attention's layers, which are 1-D convolutions

    def find(self, source: Source) -> Found | None:
        arrays = layers.arrays_of(source)
        if arrays is None or not layers.entries(arrays, "output_blocks"):
            return None
        if (attention := arrays.get("middle_block.1.qkv.weight")) is None:
            raise ValueError(
                f"{source.path} looks like {self.title}, but has no middle_block.1.qkv.weight: "
                "networks with other attention, such as latent diffusion's, are not known here"
            )
        return self._found(source, arrays) if attention.ndim == 2 + self.window else None

    def _found(self, source: Source, arrays: Arrays) -> Found:
        fields, assumed = layers.fields(arrays)
        inputs, outputs = fields["data.num_channels"], arrays["out.2.weight"].shape[0]
        if outputs not in (inputs, 2 * inputs) or (inputs, outputs) == (6, 6):
            raise ValueError(
                f"{source.path} has {inputs} input and {outputs} output channels: it makes smaller "
                "images larger (SuperResModel), which our networks do otherwise; give a file of "
                "UNetModel"
            )
        learned = outputs == 2 * inputs
        labels = arrays.get("label_emb.weight")
        fields |= {
            "model.name": "adm",
            "model.learned_variance": learned,
            "model.class_conditional": labels is not None,
            "data.num_classes": 0 if labels is None else labels.shape[0],
        }
        training: Fields = {
            "objective.name": "hybrid" if learned else "denoising",
            "sampling.method": "ddpm",
            "sampling.n_steps": 250,
            "sampling.variance": "learned" if learned else "beta",
            "guidance.clip.limit": 1.0,
        }
        mults = (fields | assumed)["model.ch_mult"]
        assumed |= (
            NOISE
            | training
            | {
                "data.image_size": SIDES.get(mults, 8 << (len(mults) - 1)),
                "model.heads_upsample": 0,
                "model.use_new_attention_order": False,
                "model.dropout": 0.0,
            }
        )
        return Found(arrays, fields | layers.told(source.options), assumed)

    def table(self, skeleton: Skeleton) -> Table:
        network = self._network(skeleton)
        height, levels = skeleton.shape[0], len(network.ch_mult)
        names, n = layers.Names(network, height), 0
        for level in reversed(range(levels)):
            for i in range(network.num_res_blocks + 1):
                number = names.add_block(f"output_blocks.{n}", level)
                if level and i == network.num_res_blocks:
                    names.add_resampling(f"output_blocks.{n}.{number}", "conv")
                n += 1
        names.add("GroupNorm", "out.0")
        names.add("Conv", "out.2")
        return layers.table(names, network, skeleton.shapes, self.order(network), self.window)

    def order(self, network: ADM) -> str:
        """The order of the rows of queries, keys and values (Tensor.order)."""
        return "phc" if network.use_new_attention_order else "hpc"

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        network = self._network(skeleton)
        channels = skeleton.shape[-1]
        return layers.options(network, skeleton.shape[0]) | {
            "in_channels": channels,
            "out_channels": channels * (2 if network.learned_variance else 1),
            "num_classes": network.num_classes or None,
            "num_heads_upsample": network.heads_upsample or -1,
        }

    def _network(self, skeleton: Skeleton) -> ADM:
        network = skeleton.network
        needed = UNLIKE | {"centered": True}
        other = {name: v for name, v in needed.items() if getattr(network, name, None) != v}
        if not isinstance(network, ADM) or other:
            raise ValueError(
                f"the network {type(network).__name__} with these fields is none of "
                f"{self.title}: set config.model.name='adm', and {other or needed}"
            )
        return network


class ConsistencyEDM(GuidedDiffusion):
    """A file of consistency-models: EDM's denoiser by the same network.

    Its attention has one order, and layers that are 2-D convolutions.
    """

    name = "consistency_models"
    title = "an EDM of consistency-models"
    cards = CONSISTENCY
    window = 2

    def _found(self, source: Source, arrays: Arrays) -> Found:
        if any(fnmatch(source.path.name, name) for name in CONSISTENCY_MODELS):
            raise ValueError(
                f"{source.path} is a consistency model, which maps noise to data at once: there is "
                "no sampler for it here; give one of edm_*_ema.pt, which it was made of"
            )
        found = super()._found(source, arrays)
        fields = found.fields | {
            "training.sde": "edm",
            "training.continuous": True,
            "model.parametrization": "edm",
            "model.label_scale": 1000.0,
            "model.use_new_attention_order": True,
        }
        assumed = {name: v for name, v in found.assumed.items() if name not in fields}
        sampling = {"sampling.method": "edm", "sampling.n_steps": 40, "sampling.variance": None}
        return Found(arrays, fields, assumed | sampling | {"model.dropout": 0.1})

    def order(self, network: ADM) -> str:
        return "phc"
