"""Text conditioning: captions as bytes or embeddings, and their encoder."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jaxtyping import Array, Float, Int

from models.layers import Dense, with_remat
from models.transformer import Mask, Perceptron, TokenAttention, Tokens, layer_norm

Text = Int[Array, "batch length"] | Float[Array, "batch length width"]

KINDS = ("", "bytes", "embeddings")
HEAD_CHANNELS = 32


def encode(captions: Sequence[str], length: int) -> Int[np.ndarray, "captions {length}"]:
    """Encodes captions as UTF-8 bytes plus 1, padded with zeros; the empty caption is all zeros.

    Networks treat the empty caption as unconditional.

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
    """An encoded batch of captions of L bytes or embeddings each.

    Attributes:
        tokens: [B, L + 1, W]; the first is a learned token, the only one of an empty caption.
        mask: [B, L + 1], False for padding.
        pooled: [B, W], the mean of the tokens whose mask is True, in float32.
    """

    tokens: Tokens
    mask: Mask
    pooled: Float[Array, "batch width"]


class TextEncoder(nn.Module):
    """A small transformer on bytes with learned positions; or a linear map of embeddings.

    Attributes:
        kind: "bytes" or "embeddings".
        length: maximum length of a caption, in bytes.
        width: features per token.
        depth: number of transformer blocks.
        remat: recompute each block's activations in the backward pass, to save memory.
        dtype: dtype of the blocks and tokens; parameters, statistics and the mean stay float32.
    """

    kind: str = "bytes"
    length: int = 64
    width: int = 128
    depth: int = 2
    remat: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, text: Text) -> Caption:
        """Encodes bytes [B, L] from `encode`, or embeddings [B, L, W]; zeros are padding."""
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
                tokens = with_remat(TextBlock, self.remat)()(tokens, mask)
            tokens = layer_norm(tokens, affine=True)
        pooled = jnp.mean(tokens, 1, jnp.float32, where=mask[..., None])
        return Caption(tokens, mask, pooled)


class TextBlock(nn.Module):
    """A pre-norm transformer block: self-attention, then an MLP."""

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask) -> Tokens:
        width = x.shape[-1]
        heads = math.gcd(width, max(width // HEAD_CHANNELS, 1))
        x += TokenAttention(heads)(layer_norm(x, affine=True), mask=mask)
        return x + Perceptron(4 * width)(layer_norm(x, affine=True))


def embed_text(network: Any, batch: int, text: Text | None) -> Caption | None:
    """Encodes the captions of a network's batch, or returns None for a network without text.

    Initialisation uses empty captions.

    Args:
        network: a module with the fields text (one of KINDS), text_length, text_width, text_depth,
            and remat and dtype if it has them.
        batch: number of samples B.
        text: bytes [B, L] with L <= text_length, or embeddings [B, L, text_width].

    Raises:
        ValueError: captions are missing, not taken by the network, or of another shape.
    """
    if not getattr(network, "text", ""):
        if text is not None:
            raise ValueError(
                "text was given to a network without text conditioning: omit it, or train a "
                "network with config.model.text='bytes'"
            )
        return None
    length, width = network.text_length, network.text_width
    is_bytes = network.text == "bytes"
    if network.is_initializing():
        text = jnp.zeros((batch, length), int) if is_bytes else jnp.zeros((batch, 1, width))
    if text is None:
        raise ValueError(
            f"a network with config.model.text={network.text!r} was given no text: give zeros for "
            "empty captions"
        )
    fits = text.ndim == 2 and text.shape[1] <= length if is_bytes else text.shape[2:] == (width,)
    if not fits or len(text) != batch:
        expected = f"at most text_length = {length}" if is_bytes else f"any, text_width = {width}"
        raise ValueError(
            f"text has the shape {text.shape}, but a network with config.model.text="
            f"{network.text!r} takes ({batch}, {expected})"
        )
    encoder = TextEncoder(
        network.text,
        length,
        width,
        network.text_depth,
        getattr(network, "remat", False),
        getattr(network, "dtype", "float32"),
        name="text_encoder",
    )
    return encoder(text)
