"""Published models: their formats, and the way from their tensors to our networks.

    source = published.read("edm-cifar10-32x32-uncond-vp.pkl")     # a file or a folder
    form, found = published.identify(source)                       # which format, and what is in it
    params = published.params(form, found.arrays, config)          # of models.create(config)

base.py states the protocol; every other file has one format. Formats of one program are a package:
diffusers/, nvidia/, openai/.
"""

import dataclasses
import re
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any

from models import weights
from models.config import Config, data_shape
from models.missing import input_shape
from models.published import autoencoder, base, dit, own, score_sde
from models.published.base import Card, Fields, Format, Found, Latents, Skeleton, Source
from models.published.diffusers import autoencoder_kl, folders, unet2d
from models.published.diffusers import dit as diffusers_dit
from models.published.nvidia import edm, edm2
from models.published.openai import classifier, unet
from models.registry import create
from models.weights import hub

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        own.Own(),
        score_sde.ScoreSDE(),
        score_sde.FlaxScoreSDE(),
        edm.EDM(),
        edm2.EDM2(),
        unet2d.Diffusers(),
        dit.Original(),
        diffusers_dit.Diffusers(),
        autoencoder_kl.Diffusers(),
        autoencoder.CompVis(),
        unet.GuidedDiffusion(),
        unet.ConsistencyEDM(),
        classifier.GuidedClassifier(),
        classifier.DiscriminatorPair(),
    )
}
"""The published formats by name."""
OTHERS = {  # what a file looks like that is no model for here, by a pattern of its names
    r"mu|sigma": "statistics of images for FID, which config.eval.statistics takes",
    r"(Mixed_5b|Conv2d_1a_3x3)\..*": "weights of Inception, which config.eval.features takes",
    r"model\.diffusion_model\..*": "a U-Net of latent diffusion, which has cross-attention",
    r".*\blora_.*": "LoRA's changes of a network's weights, not a network",
    r"(.*\.)?(mapping|synthesis)\..*": "a generator of a GAN",
    r"text_model\..*|(.*\.)?visual\..*": "an encoder of CLIP",
    r"layer1\.0\..*": "a ResNet",
}


def read(path: str | Path) -> Source:
    """A published file or folder, or a repository OWNER/NAME of the hub, read as data.

    Raises:
        ValueError: the file is none of weights, or is damaged (models.weights.read); a folder has
            no weights; or a repository cannot be downloaded.
        OSError: there is no such file, or it cannot be opened.
    """
    if hub.is_name(path):
        found = folders.read(hub.download(str(path)))
        return dataclasses.replace(found, repository=str(path))
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no file or folder {path}: give that of a published model, or the name of a "
            "repository of the Hugging Face hub, OWNER/NAME"
        )
    if path.is_dir() or folders.is_weights(path):
        return folders.read(path)
    return folders.read_file(path)


def identify(source: Source) -> tuple[Format, Found]:
    """The format of a source, and the model in it.

    Raises:
        ValueError: no format that is known, or something in it that we do not have.
    """
    for form in FORMATS.values():
        if found := form.find(source):
            return form, found
    named = source.options.get("_class_name")
    what = f"a {named} of diffusers" if named else weights.about(source.content)
    names = source.content if isinstance(source.content, dict) else ()
    like = (text for name, text in OTHERS.items() if any(re.fullmatch(name, str(n)) for n in names))
    raise ValueError(
        f"{source.path} holds {what}, which is no published model that is known here"
        f"{''.join(f' (it looks like {text})' for text in islice(like, 1))}: known are "
        f"{', '.join(form.title for form in FORMATS.values())}"
    )


def card(form: Format, source: Source) -> Card | None:
    """The card of a published model, found by the name of its file, folder or repository."""
    path = source.path.absolute().as_posix()
    names = path, source.repository, *("/".join(path.split("/")[-n:]) for n in (1, 2, 3))
    matching = (c for c in form.cards if any(fnmatch(n, f) for n in names for f in c.files))
    return next(matching, None)


def params(
    form: Format, arrays: base.Arrays, config: Config, its_shape: tuple[int, ...] | None = None
) -> Any:
    """Parameters of models.create(config) from a published model's tensors.

    Args:
        form: the model's format.
        arrays: its tensors by name.
        config: of the model.
        its_shape: of its input, [H, W, C]; None: of images as config.data describes them.

    Raises:
        ValueError: the network is none of this format, or the tensors do not fit it.
    """
    bare = skeleton(config, its_shape)
    return base.assign(form.clean(arrays), form.table(bare), bare)


def skeleton(config: Config, its_shape: tuple[int, ...] | None = None) -> Skeleton:
    """The calls and the shapes of parameters of models.create(config). Arguments: as of params."""
    shape = input_shape(its_shape or data_shape(config), bool(config.data.get("missing")))
    return base.skeleton(create(config), shape)


__all__ = [
    "FORMATS",
    "Card",
    "Fields",
    "Format",
    "Found",
    "Latents",
    "Source",
    "base",
    "card",
    "identify",
    "params",
    "read",
    "skeleton",
]
