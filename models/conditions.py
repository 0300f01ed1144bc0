"""Conditions in networks: arrays beside x and the noise level, checked and encoded in one place.

| keyword        | array                | field of the network | null: unknown                |
| -------------- | -------------------- | -------------------- | ---------------------------- |
| class_labels   | [B] integers         | num_classes          | -1                           |
| confidences    | [B] in [0, 1]        | label_confidence     | 0                            |
| augment_labels | [B, augment_dim]     | augment_dim          | 0                            |
| text           | [B, L] or [B, L, W]  | text                 | 0                            |
| vectors        | [B, K] real          | vector_dim           | NaN                          |
| attributes     | [B, K] integers      | attributes           | -1, in each column by itself |
| images         | [B, *sides, C]       | image_channels       | NaN, in each place by itself |
| low_res        | [B, *sides, C]       | low_res              | there is none                |
| low_res_noise  | [B]                  | low_res              | there is none                |

`encode` makes features of them. A network adds a linear map of each to its embedding of the noise
level: the layers are named "class_embedding", "vector_embedding" and so on. Images join the
channels of x.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from models.layers import Embedding, positional_embedding
from models.resample import Image
from models.text import Caption, embed_text

ClassLabels = Int[Array, " batch"]
AugmentLabels = Float[Array, "batch augment_dim"]
Confidences = Float[Array, " batch"]
Vectors = Float[Array, "batch numbers"]
Attributes = Int[Array, "batch columns"]

FREQUENCIES = np.pi / 8 * 2.0 ** np.arange(4)
"""Of the waves of standardised numbers: the longest has a period of 16 standard deviations."""
VECTOR_FEATURES = 128
KEYWORDS = {  # of each condition: the fields that a network has which takes it
    "class_labels": "num_classes",
    "augment_labels": "augment_dim",
    "confidences": "label_confidence",
    "text": "text",
    "vectors": "vector_dim",
    "attributes": "attributes",
    "images": "image_channels",
    "low_res": "low_res",
    "low_res_noise": "low_res",
}
OURS = {"vector_dim": 0, "attributes": (), "image_channels": 0}
"""Fields of networks for conditions that no other program has, as published networks have them."""


class Encoded(NamedTuple):
    """The conditions of a batch.

    Attributes:
        x: the noisy samples, with the images in their channels.
        features: [B, ...] by name, such as "class", in the order in which they are added.
        caption: the text, to attend to; None without.
    """

    x: Image
    features: dict[str, Embedding]
    caption: Caption | None


def encode(network: Any, x: Image, given: Mapping[str, Array | None]) -> Encoded:
    """Checks and encodes the conditions of a batch, inside the network's own forward pass.

    A condition of None is the same as none. Initialisation uses nulls or zeros for all.

    Args:
        network: a module with the fields of KEYWORDS that it knows, and nf.
        x: noisy samples [B, ...].
        given: arrays by keyword.

    Raises:
        ValueError: a condition is missing, is not one of the network's, or has another shape.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - KEYWORDS:
        raise ValueError(
            f"{name} was given to the network {type(network).__name__}, which has no such "
            f"condition: conditions are {', '.join(KEYWORDS)}"
        )
    named = (given.get(name) for name in ("class_labels", "augment_labels", "confidences"))
    classes, augments, confidences = named
    if classes is None and confidences is not None and given.get("text") is not None:
        confidences = jnp.where(_has_text(given["text"]), confidences, 0.0)
    classes, augments, confidence = encode_labels(network, len(x), classes, augments, confidences)
    features: dict[str, Any] = {"class": classes, "confidence": confidence, "augment": augments}
    caption = embed_text(network, len(x), given.get("text"))
    features["text"] = None if caption is None else caption.pooled
    seen, features["low_res"] = concatenate_low_res(
        network, x, given.get("low_res"), given.get("low_res_noise")
    )
    features["vector"] = encode_vectors(network, len(x), given.get("vectors"))
    features["attribute"] = encode_attributes(network, len(x), given.get("attributes"))
    seen = concatenate_images(network, x, seen, given.get("images"))
    known = {name: each for name, each in features.items() if each is not None}
    return Encoded(seen, known, caption)


def encode_labels(
    network: Any,
    batch: int,
    class_labels: ClassLabels | None,
    augment_labels: AugmentLabels | None,
    confidences: Confidences | None,
) -> tuple[Embedding | None, AugmentLabels | None, Embedding | None]:
    """Encodes class labels (one-hot), augmentation labels (unchanged), confidences (sinusoids).

    The class label -1 means unconditional: a row of zeros, with confidence 0. In a network with
    null_class it is a class more, the last one. Without classes the confidences are of captions.
    Confidences in [0, 1] are embedded like times (Dufour et al. 2024). An encoding is None if the
    network does not take that condition, or if no augmentation labels are given. Initialisation
    uses zeros for all.

    Args:
        network: a module with those of the fields num_classes, augment_dim, text and
            label_confidence that it knows.
        batch: number of samples B.
        class_labels: [B] integers from -1 to num_classes - 1.
        augment_labels: [B, augment_dim].
        confidences: [B].

    Returns:
        Encodings [B, num_classes (+ 1)], [B, augment_dim] and [B, nf], or None for each.

    Raises:
        ValueError: a label that the network needs is missing; the network does not take a label; or
            a label has another shape.
    """
    num_classes, augment_dim, takes_confidences = _label_fields(network)
    if network.is_initializing():
        class_labels = jnp.zeros(batch, int) if num_classes else class_labels
        augment_labels = jnp.zeros((batch, augment_dim)) if augment_dim else augment_labels
        confidences = jnp.zeros(batch) if takes_confidences else confidences
    _check_labels(network, batch, class_labels, augment_labels, confidences)
    classes = None
    if class_labels is not None:
        has_null = bool(num_classes and getattr(network, "null_class", False))
        rows = jnp.where(class_labels < 0, num_classes, class_labels) if has_null else class_labels
        classes = nn.one_hot(rows, num_classes + has_null)
    if confidences is None:
        return classes, augment_labels, None
    if class_labels is not None:
        confidences = jnp.where(class_labels < 0, 0.0, confidences)
    return classes, augment_labels, positional_embedding(999 * confidences, network.nf)


def _has_text(text: Array) -> Bool[Array, " batch"]:
    """True for each caption that is not empty."""
    return jnp.any(text != 0, axis=tuple(range(1, text.ndim)))


def _label_fields(network: Any) -> tuple[int, int, bool]:
    """The classes and augmentation labels of a network, and whether it takes confidences."""
    classes, augments = (getattr(network, name, 0) for name in ("num_classes", "augment_dim"))
    known = classes or getattr(network, "text", "")
    return classes, augments, bool(known and getattr(network, "label_confidence", False))


def _check_labels(
    network: Any, batch: int, classes: Any, augmentations: Any, confidences: Any
) -> None:
    """Raises the ValueErrors of encode_labels."""
    num_classes, augment_dim, takes_confidences = _label_fields(network)
    if classes is not None and not num_classes:
        raise ValueError(
            "class_labels were given to a network without classes: omit them, or train a network "
            "with config.model.class_conditional=True"
        )
    if augmentations is not None and not augment_dim:
        raise ValueError(
            "augment_labels were given to a network without augmentation: omit them (in training: "
            "config.data.augment=0), or train a network with config.model.augment_dim > 0"
        )
    if classes is None and num_classes:
        raise ValueError(
            f"a network with {num_classes} classes was given no class_labels: give an integer for "
            "each image, -1 for unconditional"
        )
    if (confidences is None) == takes_confidences:
        raise ValueError(
            "a network takes confidences if and only if it knows classes or text, with "
            f"config.model.label_confidence=True (here: {takes_confidences}), but confidences were "
            f"{'omitted' if confidences is None else 'given'}"
        )
    for name, labels, shape in (
        ("class_labels", classes, (batch,)),
        ("augment_labels", augmentations, (batch, augment_dim)),
        ("confidences", confidences, (batch,)),
    ):
        if labels is not None and labels.shape != shape:
            raise ValueError(f"{name} has the shape {labels.shape}, but must have {shape}")


def concatenate_low_res(
    network: Any, x: Image, low_res: Image | None, noise: Float[Array, " batch"] | None
) -> tuple[Image, Embedding | None]:
    """Appends a low-resolution image to the channels of x and embeds its noise level.

    Returns x and None for a network without low_res. Initialisation uses zeros for both.

    Args:
        network: a module with the field nf, and low_res if it takes that.
        x: noisy images [B, *sides, C].
        low_res: the low-resolution images, already upsampled to the shape of x.
        noise: standard deviations [B] of the noise in low_res, embedded like times.

    Raises:
        ValueError: low_res or noise is missing, is not taken by the network, or has another shape.
    """
    takes = getattr(network, "low_res", False)
    if takes and network.is_initializing():
        low_res, noise = jnp.zeros_like(x), jnp.zeros(len(x))
    if [low_res is not None, noise is not None] != [takes] * 2:
        raise ValueError(
            "a network takes low_res and low_res_noise, both of them, if and only if it has "
            f"config.model.low_res_size > 0 (here: {takes})"
        )
    if low_res is None or noise is None:
        return x, None
    if low_res.shape != x.shape or noise.shape != x.shape[:1]:
        raise ValueError(
            f"low_res has the shape {low_res.shape} and low_res_noise {noise.shape}, but must have "
            f"{x.shape} (the shape of x) and {x.shape[:1]}"
        )
    return jnp.concatenate([x, low_res], axis=-1), positional_embedding(999 * noise, network.nf)


class VectorEncoder(nn.Module):
    """Features of standardised numbers: the numbers, waves of them, and a hidden layer.

    A row with a NaN is unknown: it has features of its own, which no known row has.
    """

    @nn.compact
    def __call__(self, vectors: Vectors) -> Embedding:
        known = jnp.isfinite(vectors).all(axis=1, keepdims=True)
        numbers = jnp.where(known, vectors, 0.0)
        angles = (numbers[..., None] * FREQUENCIES).reshape(len(vectors), -1)
        waves = jnp.concatenate([numbers, jnp.sin(angles), jnp.cos(angles)], axis=1)
        seen = jnp.concatenate([jnp.where(known, waves, 0.0), known], axis=1)
        return nn.swish(nn.Dense(VECTOR_FEATURES, name="hidden")(seen))


def encode_vectors(network: Any, batch: int, vectors: Vectors | None) -> Embedding | None:
    """The features of vectors, [B, VECTOR_FEATURES]; None for a network without vector_dim.

    Raises:
        ValueError: vectors are missing, not taken by the network, or have another shape.
    """
    shape = batch, getattr(network, "vector_dim", 0)
    vectors = _taken(network, "vectors", vectors, shape, "a row of standardised numbers")
    return None if vectors is None else VectorEncoder(name="vector_encoder")(vectors)


def encode_attributes(
    network: Any, batch: int, attributes: Attributes | None
) -> Float[Array, "batch classes"] | None:
    """The one-hot codes of all columns side by side; None for a network without attributes.

    -1 is unknown: zeros. The codes are scaled so that embeddings are of unit size, whatever the
    number of classes.

    Raises:
        ValueError: attributes are missing, not taken by the network, or have another shape.
    """
    classes = tuple(getattr(network, "attributes", ()))
    what = "a row of classes, -1 for unknown,"
    attributes = _taken(network, "attributes", attributes, (batch, len(classes)), what)
    if attributes is None:
        return None
    codes = [nn.one_hot(column, n) for column, n in zip(attributes.T, classes, strict=True)]
    return jnp.concatenate(codes, axis=1) * (sum(classes) / len(classes)) ** 0.5


def concatenate_images(network: Any, x: Image, seen: Image, images: Image | None) -> Image:
    """`seen` with images and a mask of their known places in its channels.

    A place with a NaN in some channel is unknown: 0 in all of them, and in the mask.

    Args:
        network: a module with the field image_channels, if it takes images.
        x: noisy samples [B, *sides, C].
        seen: the same, perhaps with other channels beside them.
        images: [B, *sides, image_channels].

    Raises:
        ValueError: images are missing, not taken by the network, or have another shape.
    """
    shape = (*x.shape[:-1], getattr(network, "image_channels", 0))
    images = _taken(network, "images", images, shape, "an image of the sides of x")
    if images is None:
        return seen
    known = jnp.isfinite(images).all(axis=-1, keepdims=True)
    images = jnp.where(known, images, 0.0)
    return jnp.concatenate([seen, images, known.astype(seen.dtype)], axis=-1)


def _taken(network: Any, name: str, values: Any, shape: tuple[int, ...], what: str) -> Array | None:
    """The values of a condition; zeros in initialisation, None for a network without it.

    Raises:
        ValueError: they are missing, not taken by the network, or of another shape.
    """
    field = KEYWORDS[name]
    takes = getattr(network, field, 0)
    if takes and network.is_initializing():
        return jnp.zeros(shape, int if name == "attributes" else float)
    if values is None and not takes:
        return None
    if not takes:
        raise ValueError(
            f"{name} were given to a network without them: omit them, or train a network with "
            f"{field}"
        )
    if values is None:
        raise ValueError(
            f"a network with {field} = {takes} was given no {name}: give {what} for each sample"
        )
    if values.shape != shape:
        raise ValueError(f"{name} has the shape {values.shape}, but must have {shape}")
    return jnp.asarray(values)
