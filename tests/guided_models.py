"""Published files that are made for tests, and configs of published models."""

from pathlib import Path

import golden
import jax
import numpy as np
import torch_writer

from configs import default
from experiments.build.fields import sections
from models import published
from models.published import base


def config_of(found, card=None, **fields):
    """The config of a published model, as mode import makes it."""
    config = default.get_config()
    told = found.assumed | (card.fields if card else {}) | found.fields | fields
    with config.unlocked(), config.ignore_type():
        for name, value in told.items():
            section, _, last = name.rpartition(".")
            sections.get(config, section)[last] = value
    return config


def options_of(config):
    """Fields that the weights of guided-diffusion do not tell, from its own arguments."""
    fields = {
        "data.image_size": config.image_size,
        "model.use_new_attention_order": config.get("use_new_attention_order", False),
    }
    channels = config.get("num_head_channels", -1)
    if channels > 0:
        return fields | {"model.num_head_channels": channels, "model.heads": 0}
    up = config.get("num_heads_upsample", 0)
    return fields | {"model.heads": config.num_heads, "model.heads_upsample": up}


def make_file(name, network, shape=(32, 32, 3), form="guided_diffusion"):
    """A file of zeros, which take no memory, with a network in a format; its parameters' number."""
    bare = base.skeleton(network, shape)
    table = published.FORMATS[form].table(bare)
    content = {
        tensor.name: np.broadcast_to(
            np.float32(0), base._published_shape(bare.shapes[place].shape, tensor, place)
        )
        for place, tensor in table.items()
    }
    n_params = sum(leaf.size for leaf in jax.tree.leaves(dict(bare.shapes)))
    return published.Source(Path(name), content), n_params


def pair():
    """The two golden files of discriminator guidance, and their numbers."""
    arrays = golden.load("dg_discriminator")
    state = golden.state_dict(arrays)
    parts = ("classifier.", "discriminator.")
    files = [
        {n.removeprefix(part): a for n, a in state.items() if n.startswith(part)} for part in parts
    ]
    return arrays, files


def write_pair(folder):
    """The two files in a folder."""
    arrays, files = pair()
    folder.mkdir(exist_ok=True)
    for name, content in zip(("32x32_classifier.pt", "discriminator_60.pt"), files, strict=True):
        tensors = {key: torch_writer.tensor(value) for key, value in content.items()}
        torch_writer.save_zip(folder / name, tensors)
    return arrays
