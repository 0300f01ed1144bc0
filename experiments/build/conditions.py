"""The conditions of a model, from the config: makers by name in CONDITIONS.

A maker gives a condition, or None if the config has none of its kind. A new condition is a new file
with a class like those of experiments/pipeline/conditions and a maker, and a line here.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, cast

from experiments.build.checks import couplings
from experiments.build.components import sampling, specs
from experiments.build.fields import choices, sections
from experiments.data.captions import FILE, ByteReader, EmbeddingReader
from experiments.data.conditions import files
from experiments.data.dataset import Dataset, DataSpec
from experiments.data.load import load
from experiments.pipeline.conditions import (
    Attributes,
    ClassLabel,
    Condition,
    Conditions,
    Confidence,
    Image,
    Source,
    Text,
    Vector,
)
from experiments.pipeline.conditions.source import Origin
from models import operators
from models.config import Config


def class_label(config: Config) -> ClassLabel | None:
    """The class, of a model with config.model.class_conditional."""
    negative = config.guidance.classifier_free.negative_label
    if config.model.class_conditional:
        return ClassLabel(
            config.data.num_classes, sampling.labels(config), -1 if negative is None else negative
        )
    given = sampling.labels(config) and not config.guidance.classifier.run
    if negative not in (None, -1) or given:
        name = "sampling.label" if given else "guidance.classifier_free.negative_label"
        raise ValueError(
            f"config.{name} needs a model with classes (config.model.class_conditional), or a "
            "classifier that guides: give config.guidance.classifier.run"
        )
    return None


def label_confidence(config: Config) -> Confidence | None:
    """The confidence of the class or caption, of a model with config.model.label_confidence."""
    if not config.model.label_confidence:
        if sections.is_set(config, "sampling.confidence"):
            raise ValueError("config.sampling.confidence needs a model with label_confidence")
        if config.data.confidence and config.data.least_confidence is None:
            raise ValueError(
                "config.data.confidence needs config.model.label_confidence=True, or "
                "config.data.least_confidence"
            )
        return None
    if not (config.model.class_conditional or config.model.text):
        raise ValueError(
            "config.model.label_confidence needs config.model.class_conditional=True or "
            "config.model.text"
        )
    confidence = config.sampling.confidence
    return Confidence(1.0 if confidence is None else confidence)


def text(config: Config) -> Text | None:
    """The text, of a model with config.model.text."""
    options, kind = config.sampling, config.model.text
    negative = config.guidance.classifier_free.negative_prompt or ""
    prompts = {"sampling.prompt": options.prompt}
    prompts["guidance.classifier_free.negative_prompt"] = negative
    for name, prompt in prompts.items():
        if prompt and kind != "bytes":
            knows = "embeddings, of config.sampling.embeddings" if kind else "no text"
            raise ValueError(
                f"config.{name} is {prompt!r}, but the model knows {knows}: train one with "
                "config.model.text='bytes', or leave it out"
            )
    if options.embeddings and kind != "embeddings":
        raise ValueError(
            "config.sampling.embeddings needs a model that was trained with config.model.text="
            "'embeddings'"
        )
    if config.data.embeddings and kind != "embeddings":
        raise ValueError("config.data.embeddings needs config.model.text='embeddings'")
    if not kind:
        return None
    with_data = config.data.conditions or config.data.dataset in ("npz", "arrays")
    if kind == "embeddings" and not (config.data.embeddings or with_data):
        raise ValueError(
            "config.model.text='embeddings' needs config.data.embeddings, or config.data.conditions"
            f" with some: {FILE}"
        )
    if kind == "embeddings":
        reader: Any = EmbeddingReader(
            config.data.embeddings, config.model.text_width, options.embeddings
        )
    else:
        lines = tuple(filter(None, options.prompt.splitlines()))
        reader = ByteReader(config.model.text_length, lines, negative)
    return Text(reader)


def vector(config: Config) -> Vector | None:
    """The vector of real numbers, of a model with config.model.vector_dim."""
    size, columns = config.model.vector_dim, config.data.condition_columns
    if columns and len(columns) != size:
        raise ValueError(
            f"config.data.condition_columns has {len(columns)} names, and config.model.vector_dim "
            f"is {size}: set config.model.vector_dim={len(columns)}"
        )
    return Vector(size) if size else None


def attributes(config: Config) -> Attributes | None:
    """The attributes, of a model with config.model.attributes."""
    classes, columns = tuple(config.model.attributes), config.data.attribute_columns
    if columns and len(columns) != len(classes):
        raise ValueError(
            f"config.data.attribute_columns has {len(columns)} names, and config.model.attributes "
            f"is {classes}: give it the number of classes of each"
        )
    return Attributes(classes) if classes else None


def image(config: Config) -> Image | None:
    """The image beside x, of a model with config.image_condition.name."""
    name, _ = choices.IMAGE_CONDITION.read(config)
    if not name:
        return None
    for field in ("data.autoencoder", "model.low_res_size"):
        if value := sections.get(config, field):
            raise ValueError(
                f"config.image_condition.name is {name!r}, which does not go with config.{field} = "
                f"{value!r}: the network sees images of the sides of the data; leave one out"
            )
    shape, scaling = specs.data_shape(config), specs.scaling(config)
    if name == "grey" and not scaling.levels:
        raise ValueError(
            "config.image_condition.name is 'grey', which is for images of grey levels, and the "
            "data are floats: take 'data', with grey images beside the data"
        )
    operator = operators.operator(config)
    seen = *shape[:-1], operators.image_channels(config)
    source = operator.shape(shape) if operator else seen
    own = scaling if operator else None
    return Image(seen, own, operator, source, scaling.centered, config.seed)


def source(config: Config) -> Source | None:
    """The source, of a model with config.source.name."""
    name, options = choices.SOURCE.read(config)
    if not name:
        return None
    couplings.check(config, couplings.SOURCED, "source.name")
    if config.objective.name != "denoising":
        raise ValueError(
            f"config.source.name is {name!r}, but config.objective.name {config.objective.name!r} "
            "has normal noise: set it to 'denoising'"
        )
    about = specs.data_shape(config), specs.scaling(config)
    if name == "image":
        _check_image_source(config, about[0])
    if name == "reflow" and not options.get("path"):
        raise ValueError(
            "config.source.name is 'reflow', but config.source.path is not set: give the file that "
            "--mode=generate --config.sampling.pairs=True wrote"
        )
    if name != "samples":
        return Source(*about, cast(Origin, name))
    if "dataset" not in options:
        raise ValueError(
            "config.source.name is 'samples', but config.source.dataset is not set: give the data "
            "set that they are from, as config.data.dataset does"
        )
    beside: dict[str, Any] = {"condition_columns": (), "attribute_columns": (), "n_classes": 0}
    beside |= {"label_column": "", "caption_column": "", "conditions": "", "captions": False}
    spec = dataclasses.replace(
        specs.data_spec(config),
        name=options["dataset"],
        path=options.get("path", ""),
        **beside,
    )
    most = config.data.resident_bytes
    return Source(*about, name, cache(lambda: _source_data(spec, about[1].levels, most)))


def _check_image_source(config: Config, shape: tuple[int, ...]) -> None:
    """Raises ValueError for condition images from which samples cannot start."""
    kind = config.image_condition.name
    if kind in ("", "masked") or operators.image_channels(config) != shape[-1]:
        raise ValueError(
            f"config.source.name is 'image', and config.image_condition.name {kind!r}: take "
            f"'low_res', or 'data' with images of {shape[-1]} channels, as samples start from them"
        )


def _source_data(spec: DataSpec, levels: int | None, most: int) -> Dataset:
    """The data set of a source. Raises ValueError for other values, or more than `most` bytes."""
    try:
        dataset = load(spec)
    except ValueError as error:
        message = str(error)
        for field in ("dataset", "path"):
            message = message.replace(f"config.data.{field}", f"config.source.{field}")
        raise ValueError(message) from error
    n_bytes = getattr(dataset.train, "nbytes", None)
    if n_bytes is None or n_bytes > most:
        raise ValueError(
            f"config.source.dataset = {spec.name!r} has {n_bytes or 'an unknown number of'} bytes, "
            f"and config.data.resident_bytes = {most} are the most, as every device holds it: give "
            "fewer samples in memory, or pairs beside the data"
        )
    if dataset.levels != levels:
        raise ValueError(
            f"config.source.dataset = {spec.name!r} has values of {dataset.levels or 'no'} grey "
            f"levels, the data of {levels or 'none'}: they must be of one kind"
        )
    return dataset


CONDITIONS: dict[str, Callable[[Config], Condition | None]] = {
    "class": class_label,
    "confidence": label_confidence,
    "text": text,
    "vector": vector,
    "attributes": attributes,
    "image": image,
    "source": source,
}


def conditions(config: Config) -> Conditions:
    """All conditions of the model, with the values of config.sampling.condition to draw."""
    made = (maker(config) for maker in CONDITIONS.values())
    whole = Conditions(tuple(filter(None, made)), config.model.label_dropout)
    if config.data.conditions and not whole.members:
        raise ValueError(
            f"config.data.conditions is {config.data.conditions!r}, but the model has no "
            "conditions: leave it out, or set config.model.vector_dim, attributes or text, or "
            "config.image_condition.name"
        )
    if not config.sampling.condition:
        return whole
    return whole.asked(None, None, files.read(config.sampling.condition, whole.kinds))
