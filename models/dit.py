"""Diffusion transformers (Peebles & Xie 2023, arXiv 2212.09748)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jaxtyping import Array, Float

from models.layers import (
    AugmentLabels,
    ClassLabels,
    Confidences,
    Dense,
    Embedding,
    conditions,
    init,
    positional_embedding,
    recomputed,
)
from models.resample import Image
from models.text import Caption, Text, read
from models.transformer import ZERO, Mask, Perceptron, TokenAttention, Tokens, normalized
from sde_lib.checks import check_at_least

SIZES = {
    name: {"hidden_size": width, "depth": depth, "num_heads": heads}
    for name, width, depth, heads in (
        ("S", 384, 12, 6),
        ("B", 768, 12, 12),
        ("L", 1024, 24, 16),
        ("XL", 1152, 28, 16),
    )
}
"""The published ones, as fields of DiT."""

CONDITIONING = ("adaln_zero", "cross_attention", "in_context")


class DiT(nn.Module):
    """A transformer on the patches of an image; before training, its output is zero.

    The sum c of what is embedded, noise level, class, augmentation and the caption's mean, scales,
    shifts and gates every block. c and the caption's tokens are also seen by cross-attention, or as
    further positions beside the image's, if `conditioning` says so. Unlike in the paper, c gates
    the blocks there too, as captions alone do not tell the noise level well.

    Attributes:
        patch_size: height and width of the patches, which divide the image's.
        hidden_size: features of a patch, a multiple of 4 and of num_heads.
        depth: blocks.
        num_heads: of attention.
        mlp_ratio: hidden over other features of the perceptrons.
        conditioning: one of CONDITIONING.
        dropout: probability, in training, of what blocks add.
        learned_variance: twice the channels go out, those of the variance last.
        num_classes: that the network tells apart, 0 for none.
        augment_dim: augmentation labels that it sees, 0 for none.
        label_confidence: whether it sees how sure the classes are.
        text: "bytes" or "embeddings" that it reads (models.text), "" for none.
        text_length: of a caption at most, in bytes.
        text_width: features of a token.
        text_depth: blocks of the transformer that reads bytes.
        centered: data in [-1, 1]; otherwise [0, 1], which the network maps there.
        remat: compute each block's activations again in the backward pass, to save memory.
        dtype: of the blocks; parameters, statistics, the embedding and the output are float32.

    Raises:
        ValueError: sizes that are no positive integers, or that do not divide each other.
    """

    patch_size: int = 2
    hidden_size: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    conditioning: str = "adaln_zero"
    dropout: float = 0.0
    learned_variance: bool = False
    num_classes: int = 0
    augment_dim: int = 0
    label_confidence: bool = False
    text: str = ""
    text_length: int = 64
    text_width: int = 128
    text_depth: int = 2
    centered: bool = False
    remat: bool = False
    dtype: str = "float32"

    nf = 256  # features of the sinusoids; no field

    def __post_init__(self):
        sizes = {
            f"config.model.{name}": getattr(self, name)
            for name in ("patch_size", "hidden_size", "depth", "num_heads")
        }
        check_at_least(1, **sizes)
        for divisor, of in ((self.num_heads, "num_heads"), (4, "2 sines and 2 cosines")):
            if self.hidden_size % divisor:
                raise ValueError(
                    f"config.model.hidden_size is {self.hidden_size}: it must be a multiple of "
                    f"{divisor}, for {of}"
                )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Image,
        labels: Float[Array, " batch"],
        train: bool = False,
        class_labels: ClassLabels | None = None,
        augment_labels: AugmentLabels | None = None,
        confidences: Confidences | None = None,
        text: Text | None = None,
        features: bool = False,
    ) -> Image | tuple[Image, Embedding]:
        """The output, of the shape of x; labels are what the parametrization conditions on.

        With `features`, one pixel for each patch before the last layer, and c as blocks see it.

        Raises:
            ValueError: patches do not divide the image, or conditions are not those that the
                network knows (layers.conditions, text.read).
        """
        check_patches(x.shape[1:], self.patch_size)
        rows, columns = (n // self.patch_size for n in x.shape[1:3])
        caption = read(self, len(x), text)
        c = self._embedding(labels, caption, class_labels, augment_labels, confidences)
        across = self.conditioning == "cross_attention"
        beside = self.conditioning == "in_context"
        tokens = self._context(c, caption) if across or beside else None
        c = nn.swish(c).astype(self.dtype)

        patches = patchify(x if self.centered else 2 * x - 1, self.patch_size)
        embed = Dense(self.hidden_size, kernel_init=init(), name="patches")
        h = embed(patches.astype(self.dtype))
        h += position_embedding(rows, columns, self.hidden_size).astype(self.dtype)
        mask = None
        if beside and tokens is not None:
            context, context_mask = tokens
            h = jnp.concatenate([h, context], 1)
            if context_mask is not None:
                of_image = ((0, 0), (rows * columns, 0))
                mask = jnp.pad(context_mask, of_image, constant_values=True)
        seen = tokens if across else None
        block = recomputed(DiTBlock, self.remat, static=(5,))
        for _ in range(self.depth):
            h = block(self.num_heads, self.mlp_ratio, self.dropout)(h, c, mask, seen, train)
        h = h[:, : rows * columns]
        if features:
            return h.reshape(len(x), rows, columns, -1), c

        h = normalized(h, *modulate(c, 2, self.hidden_size))
        channels = x.shape[-1] * (2 if self.learned_variance else 1)
        h = Dense(self.patch_size**2 * channels, kernel_init=ZERO, name="output")(h)
        return unpatchify(h, rows, columns, self.patch_size).astype(jnp.float32)

    def _embedding(self, labels, caption: Caption | None, *given) -> Embedding:
        classes, augments, trust = conditions(self, len(labels), *given)
        c = self._linear()(positional_embedding(labels, self.nf))
        c = self._linear()(nn.swish(c))
        if classes is not None:
            c += self._linear(use_bias=False, name="class_embedding")(classes)
        if trust is not None:
            c += self._linear(use_bias=False, name="confidence_embedding")(trust)
        if augments is not None:
            c += self._linear(use_bias=False, name="augment_embedding")(augments)
        if caption is not None:
            c += self._linear(use_bias=False, name="text_embedding")(caption.pooled)
        return c

    def _linear(self, **options) -> nn.Dense:
        return Dense(self.hidden_size, kernel_init=initializers.normal(0.02), **options)

    def _context(self, c: Embedding, caption: Caption | None) -> tuple[Tokens, Mask | None]:
        """c and the caption's tokens, side by side."""
        tokens = c[:, None].astype(self.dtype)
        if caption is None:
            return tokens, None
        words = self._linear(name="text_tokens")(caption.tokens)
        mask = jnp.pad(caption.mask, ((0, 0), (1, 0)), constant_values=True)
        return jnp.concatenate([tokens, words], 1), mask


class DiTBlock(nn.Module):
    """Attention and a perceptron, which c scales, shifts and gates: adaLN-Zero (Section 3.2).

    It starts as the identity. With a context, cross-attention to it comes in between.
    """

    heads: int
    mlp_ratio: float
    dropout: float

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        c: Embedding,
        mask: Mask | None,
        context: tuple[Tokens, Mask | None] | None,
        train: bool,
    ) -> Tokens:
        width = x.shape[-1]
        drop = nn.Dropout(self.dropout, deterministic=not train)
        scale, shift, gate, scale_2, shift_2, gate_2 = modulate(c, 6, width)
        attention = TokenAttention(self.heads, name="attention")
        x += gate * drop(attention(normalized(x, scale, shift), mask=mask))
        if context is not None:
            attention = TokenAttention(self.heads, ZERO, name="cross_attention")
            x += drop(attention(normalized(x, affine=True), *context))
        perceptron = Perceptron(int(self.mlp_ratio * width), name="perceptron")
        return x + gate_2 * drop(perceptron(normalized(x, scale_2, shift_2)))


def modulate(c: Embedding, n: int, features: int) -> list[Tokens]:
    """n linear functions of c, of one position each; they start at 0."""
    return jnp.split(Dense(n * features, kernel_init=ZERO, name="modulation")(c)[:, None], n, -1)


def check_patches(shape: tuple[int, ...], patch_size: int) -> None:
    """Raises ValueError unless patches divide images of shape [H, W, C]."""
    height, width, _ = shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"images of {height} x {width} pixels cannot be cut into patches of config.model."
            f"patch_size = {patch_size}: choose a divisor of height and width"
        )


def patchify(x: Image, size: int) -> Tokens:
    """Patches of size x size pixels, row by row; the features are rows, columns, channels."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c).swapaxes(2, 3)
    return x.reshape(b, h * w // size**2, size**2 * c)


def unpatchify(tokens: Tokens, rows: int, columns: int, size: int) -> Image:
    """The inverse of patchify, from so many rows and columns of patches."""
    b = len(tokens)
    x = tokens.reshape(b, rows, columns, size, size, -1).swapaxes(2, 3)
    return x.reshape(b, rows * size, columns * size, -1)


def position_embedding(
    rows: int, columns: int, features: int
) -> Float[np.ndarray, "positions {features}"]:
    """Sines and cosines of the column, then of the row, at features / 4 frequencies 1 to 1e-4."""
    n = features // 4
    frequencies = 10_000 ** (-np.arange(n) / n)
    row, column = np.mgrid[:rows, :columns].reshape(2, -1, 1) * frequencies
    parts = np.sin(column), np.cos(column), np.sin(row), np.cos(row)
    return np.concatenate(parts, -1, dtype=np.float32)
