"""Captions: their bytes, and the tokens that networks see of them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jaxtyping import Array, Float, Int

from models.layers import Dense, recomputed
from models.transformer import Mask, Perceptron, TokenAttention, Tokens, normalized

Text = Int[Array, "batch length"] | Float[Array, "batch length width"]

KINDS = ("", "bytes", "embeddings")
HEAD_CHANNELS = 32


def encode(captions: Sequence[str], length: int) -> Int[np.ndarray, "captions {length}"]:
    """Captions in UTF-8: each byte plus 1, then zeros. The empty caption, all zeros, says nothing.

    Raises:
        ValueError: a caption of more than `length` bytes.
    """
    encoded = np.zeros((len(captions), length), np.int32)
    for row, caption in zip(encoded, captions, strict=True):
        values = caption.encode()
        if len(values) > length:
            raise ValueError(
                f"the caption {caption!r} has {len(values)} bytes in UTF-8, and the network reads "
                f"config.model.text_length = {length} at most: shorten it, or train with more"
            )
        row[: len(values)] = np.frombuffer(values, np.uint8) + 1
    return encoded


class Caption(NamedTuple):
    """What a network sees of captions of L bytes or embeddings.

    Attributes:
        tokens: [B, L + 1, W]; the first is learned and of every caption, of the empty one alone.
        mask: [B, L + 1], False where the caption has ended.
        pooled: [B, W], the mean of the tokens that are there, in float32.
    """

    tokens: Tokens
    mask: Mask
    pooled: Float[Array, "batch width"]


class TextEncoder(nn.Module):
    """A small transformer over bytes with learned positions; or a linear map of given embeddings.

    Attributes:
        kind: "bytes" or "embeddings".
        length: of a caption at most, in bytes.
        width: features of a token.
        depth: blocks of the transformer.
        remat: compute each block's activations again in the backward pass, to save memory.
        dtype: of the blocks and tokens; parameters, statistics and the mean are float32.
    """

    kind: str = "bytes"
    length: int = 64
    width: int = 128
    depth: int = 2
    remat: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, text: Text) -> Caption:
        """Of `encode`'s bytes, or of embeddings [B, L, W], where a token of zeros is not there."""
        normal = initializers.normal(0.02)
        if self.kind == "bytes":
            there = text != 0
            positions = self.param("positions", normal, (self.length, self.width))
            tokens = nn.Embed(257, self.width, embedding_init=normal, name="bytes")(text)
            tokens += positions[: text.shape[1]]
        else:
            there = jnp.any(text != 0, -1)
            tokens = Dense(self.width, name="projection")(text.astype(self.dtype))
        first = self.param("first", normal, (self.width,))
        first = jnp.broadcast_to(first, (len(text), 1, self.width))
        tokens = jnp.concatenate([first, tokens], 1).astype(self.dtype)
        mask = jnp.pad(there, ((0, 0), (1, 0)), constant_values=True)
        if self.kind == "bytes":
            for _ in range(self.depth):
                tokens = recomputed(TextBlock, self.remat)()(tokens, mask)
            tokens = normalized(tokens, affine=True)
        pooled = jnp.mean(tokens, 1, jnp.float32, where=mask[..., None])
        return Caption(tokens, mask, pooled)


class TextBlock(nn.Module):
    """Attention and a perceptron, each behind a normalisation."""

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask) -> Tokens:
        width = x.shape[-1]
        heads = math.gcd(width, max(width // HEAD_CHANNELS, 1))
        x += TokenAttention(heads)(normalized(x, affine=True), mask=mask)
        return x + Perceptron(4 * width)(normalized(x, affine=True))


def read(network: Any, batch: int, text: Text | None) -> Caption | None:
    """What a network sees of its captions, None without; its initialisation takes empty ones.

    Args:
        network: has text, one of KINDS, text_length, text_width and text_depth, remat and dtype.

    Raises:
        ValueError: captions that the network needs or does not know, or of another shape.
    """
    if not network.text:
        if text is not None:
            raise ValueError(
                "a text was given to a network that reads none: leave it out, or train one with "
                "config.model.text='bytes'"
            )
        return None
    length, width = network.text_length, network.text_width
    of_bytes = network.text == "bytes"
    if network.is_initializing():
        text = jnp.zeros((batch, length), int) if of_bytes else jnp.zeros((batch, 1, width))
    if text is None:
        raise ValueError(
            f"a network with text = {network.text!r} was given none: give it zeros for no caption"
        )
    fits = text.ndim == 2 and text.shape[1] <= length if of_bytes else text.shape[2:] == (width,)
    if not fits or len(text) != batch:
        expected = "at most text_length, {length})" if of_bytes else "any, text_width, {width})"
        raise ValueError(
            f"a text of shape {text.shape} was given to a network with text = {network.text!r}, "
            f"which reads ({batch}, {expected.format(length=length, width=width)}"
        )
    encoder = TextEncoder(
        network.text,
        length,
        width,
        network.text_depth,
        network.remat,
        network.dtype,
        name="text_encoder",
    )
    return encoder(text)
