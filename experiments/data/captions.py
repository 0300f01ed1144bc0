"""The texts that a model is told: captions of its data, prompts, or embeddings of both in files."""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from experiments.data.dataset import Dataset
from experiments.data.named import load_images
from experiments.runs import parts
from models import text
from models.config import Config

Texts = Int[np.ndarray, "texts bytes"] | Float[np.ndarray, "texts tokens width"]
FILE = "an .npz file of float arrays [texts, tokens, width]"


def of_data(config: Config, dataset: Dataset, part: Literal["train", "test"]) -> Texts:
    """Of the data's captions, their bytes, or their embeddings in config.data.embeddings.

    Raises:
        ValueError: data without captions, or one that is too long; a file that does not fit them.
    """
    if config.model.text == "embeddings":
        rows = _read(config.data.embeddings, "config.data.embeddings", part)
        n = len(getattr(dataset, part))
        if (len(rows), rows.shape[2]) != (n, config.model.text_width):
            raise ValueError(
                f"config.data.embeddings, {config.data.embeddings}, has {len(rows)} of width "
                f"{rows.shape[2]} in {part!r}: there are {n} such images, and config.model."
                f"text_width is {config.model.text_width}"
            )
        return rows
    captions = getattr(dataset, f"{part}_captions")
    if captions is None:
        raise ValueError(
            f"config.model.text is 'bytes', but {config.data.dataset!r} has no captions: take data "
            "with some (README.md, Text), or leave it out"
        )
    return text.encode(list(map(str, captions)), config.model.text_length)


def of_samples(config: Config) -> Texts:
    """What samples are drawn of, in turn: the prompt, or the captions of the test set.

    Of a model with embeddings: those in config.sampling.embeddings, or of the test set.

    Raises:
        ValueError: a prompt that is too long, or one for a model of another kind.
    """
    options = config.sampling
    if config.model.text == "embeddings" and options.embeddings:
        return _read(options.embeddings, "config.sampling.embeddings", "prompt")
    if config.model.text == "bytes" and options.prompt:
        return text.encode([options.prompt], config.model.text_length)
    return of_data(config, load_images(config), "test")


def identity(config: Config) -> str:
    """What changes with the texts that samples are drawn of; "" without any."""
    if not config.model.text:
        return ""
    return parts.digest([of_samples(config), negative(config) if has_negative(config) else None])


def empty(config: Config) -> Texts:
    """One that says nothing, without its first axis."""
    if config.model.text == "embeddings":
        return np.zeros_like(_read(config.data.embeddings, "config.data.embeddings", "test")[0])
    return text.encode([""], config.model.text_length)[0]


def has_negative(config: Config) -> bool:
    """Whether config.sampling has a text to keep away from."""
    options = config.sampling
    if not options.embeddings or not Path(options.embeddings).is_file():
        return bool(options.negative_prompt)
    with np.load(options.embeddings) as file:
        return "negative_prompt" in file


def negative(config: Config) -> Texts:
    """That text: its bytes, or its embedding, one."""
    options = config.sampling
    if options.embeddings:
        return _read(options.embeddings, "config.sampling.embeddings", "negative_prompt")
    return text.encode([options.negative_prompt], config.model.text_length)


def check(config: Config) -> None:
    """Raises ValueError for texts in config.sampling that its model does not know."""
    options, kind = config.sampling, config.model.text
    for name in ("prompt", "negative_prompt"):
        if options[name] and kind != "bytes":
            knows = "embeddings, of config.sampling.embeddings" if kind else "no text"
            raise ValueError(
                f"config.sampling.{name} is {options[name]!r}, but the model knows {knows}: train "
                "one with config.model.text='bytes', or leave it out"
            )
        if options[name]:
            text.encode([options[name]], config.model.text_length)
    if kind == "embeddings" and options.embeddings and has_negative(config):
        prompts, avoided = of_samples(config), negative(config)
        if avoided.shape != (1, *prompts.shape[1:]):
            raise ValueError(
                f"config.sampling.embeddings, {options.embeddings}: 'negative_prompt' has the shape"
                f" {avoided.shape}, it must be (1, {', '.join(map(str, prompts.shape[1:]))}), one "
                "as long as each 'prompt'"
            )
    if options.embeddings and kind != "embeddings":
        raise ValueError(
            "config.sampling.embeddings needs a model that was trained with config.model.text="
            "'embeddings'"
        )
    if kind == "embeddings" and not config.data.embeddings:
        raise ValueError(f"config.model.text='embeddings' needs config.data.embeddings, {FILE}")


def _read(path: str, field: str, name: str) -> Texts:
    if not Path(path).is_file():
        raise ValueError(f"{field} is {path!r}: give {FILE}")
    with np.load(path) as file:
        if name not in file:
            raise ValueError(f"{field}, {path}, has no array {name!r}: give {FILE}")
        rows = np.asarray(file[name])
    if rows.ndim != 3 or not np.issubdtype(rows.dtype, np.floating):
        raise ValueError(f"{field}, {path}: {name!r} is {rows.dtype} {rows.shape}; give {FILE}")
    return rows.astype(np.float32)
