"""Diffusion transformers (Peebles & Xie 2023, arXiv 2212.09748)."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jaxtyping import Array, Float

from models import conditions
from models.checked import CHOICES, CheckedNetwork
from models.config import describe
from models.layers import (
    Dense,
    Embedding,
    init,
    nearest_sides,
    positional_embedding,
    with_remat,
)
from models.resample import Image
from models.text import Caption
from models.transformer import ZERO, Mask, Perceptron, TokenAttention, Tokens, layer_norm

SIZES = {
    name: {"hidden_size": width, "depth": depth, "num_heads": heads}
    for name, width, depth, heads in (
        ("S", 384, 12, 6),
        ("B", 768, 12, 12),
        ("L", 1024, 24, 16),
        ("XL", 1152, 28, 16),
    )
}
"""The published model sizes, as fields of DiT."""
CONDITIONING = CHOICES["conditioning"]


class DiT(CheckedNetwork):
    """A transformer on the patches of images, series or volumes.

    Its output is zero at initialisation.

    The embeddings of noise level, class, augmentation and caption (the mean of its tokens) add up
    to a vector c, which scales, shifts and gates every block (adaLN-Zero). With "cross_attention"
    the blocks also attend to c and the caption's tokens; with "in_context" these are appended to
    the sequence of patches. Unlike in the paper, c modulates the blocks in these two cases too,
    because attention alone conveys the noise level poorly.

    Attributes:
        patch_size: every side of the patches; it divides those of the image.
        hidden_size: features per token, a multiple of 4 and of num_heads.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: width of an MLP's hidden layer over hidden_size.
        conditioning: one of CONDITIONING.
        dropout: dropout probability of the residual branches in training.
        learned_variance: twice the output channels; the second half is v (ScoreAndVariance).
        attention_bias: queries, keys and values have a bias.
        mlp_epsilon: epsilon of the normalisation before each MLP; elsewhere it is 1e-6.
        frequency_shift: the frequencies of the noise label are 10000^(-k / (128 - shift)).
        num_classes: number of classes for class conditioning; 0: unconditional.
        null_class: the class -1 has an embedding of its own; if False, it adds nothing.
        shared_embedding: all blocks see the same embedding of noise level and class. If False, each
            block but the first has layers of its own for it, as diffusers trains them.
        augment_dim: number of augmentation labels (EDM: 9); 0: none.
        label_confidence: condition on the confidence of each class label, or caption.
        text: kind of caption, "bytes" or "embeddings" (models.text); "": no captions.
        text_length: maximum length of a caption, in bytes.
        text_width: features per token.
        text_depth: blocks of the transformer that encodes bytes.
        vector_dim: numbers in the vector that conditions it; 0: none.
        attributes: number of classes of each attribute that conditions it; (): none.
        image_channels: channels of the images that it sees beside x; 0: none.
        centered: data in [-1, 1]; if False, in [0, 1], which the network rescales to [-1, 1].
        remat: recompute each block's activations in the backward pass, to save memory.
        scan_blocks: the blocks are one loop, whose program holds one block: it compiles faster, and
            copies the blocks' weights at every call. The parameters stay as they are.
        dtype: dtype of the blocks; parameters, statistics, embedding and output stay float32.

    Raises:
        ValueError: a field of CheckedNetwork, or hidden_size is no multiple of num_heads and 4.
    """

    patch_size: int = 2
    hidden_size: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    conditioning: str = "adaln_zero"
    dropout: float = 0.0
    learned_variance: bool = False
    attention_bias: bool = True
    mlp_epsilon: float = 1e-6
    frequency_shift: int = 1
    num_classes: int = 0
    null_class: bool = False
    shared_embedding: bool = True
    augment_dim: int = 0
    label_confidence: bool = False
    text: str = ""
    text_length: int = 64
    text_width: int = 128
    text_depth: int = 2
    vector_dim: int = 0
    attributes: Sequence[int] = ()
    image_channels: int = 0
    centered: bool = False
    remat: bool = False
    scan_blocks: bool = False
    dtype: str = "float32"

    nf = 256  # features of the sinusoidal embeddings; fixed, not a field

    def __post_init__(self):
        super().__post_init__()
        for divisor, reason in ((self.num_heads, "num_heads"), (4, "2 sines and 2 cosines")):
            if self.hidden_size % divisor:
                raise ValueError(
                    f"config.model.hidden_size is {self.hidden_size}: it must be a multiple of "
                    f"{divisor}, for {reason}"
                )
        others = (
            self.augment_dim,
            self.label_confidence,
            self.text,
            self.vector_dim,
            self.attributes,
            self.conditioning != "adaln_zero",
        )
        if not self.shared_embedding and any(others):
            raise ValueError(
                "config.model.shared_embedding is False: that is for noise level and class alone, "
                "with conditioning = 'adaln_zero'; leave out other conditions"
            )

    @nn.compact
    def __call__(
        self,
        x: Image,
        labels: Float[Array, " batch"],
        train: bool = False,
        features: bool = False,
        **given: Array | None,
    ) -> Image | tuple[Image, Embedding]:
        """The network output, of the shape of x, given the noise labels of the parametrization.

        `given` are its conditions by keyword (models.conditions). With `features=True`: the tokens
        before the output layer as an image of one pixel per patch, and swish(c).

        Raises:
            ValueError: patches do not divide the image; a condition is missing, unknown or
                misshapen.
        """
        check_patches(x.shape[1:], self.patch_size)
        counts = tuple(side // self.patch_size for side in x.shape[1:-1])
        n_patches, channels = math.prod(counts), x.shape[-1]
        x, encoded, caption = conditions.encode(self, x, given)
        c = self._embedding(labels, encoded)
        cross_attention = self.conditioning == "cross_attention"
        in_context = self.conditioning == "in_context"
        context = self._context(c, caption) if cross_attention or in_context else None
        c = nn.swish(c).astype(self.dtype)
        seen = [c] * self.depth
        if not self.shared_embedding:
            own = (LabelEmbedding(self.hidden_size, self.frequency_shift) for _ in seen[1:])
            seen[1:] = (nn.swish(e(labels, encoded.get("class"))).astype(self.dtype) for e in own)

        patches = patchify(x if self.centered else 2 * x - 1, self.patch_size)
        embed = Dense(self.hidden_size, kernel_init=init(), name="patches")
        h = embed(patches.astype(self.dtype))
        h += position_embedding(counts, self.hidden_size).astype(self.dtype)
        mask = None
        if in_context and context is not None:
            tokens, token_mask = context
            h = jnp.concatenate([h, tokens], 1)
            if token_mask is not None:
                patches_first = ((0, 0), (n_patches, 0))
                mask = jnp.pad(token_mask, patches_first, constant_values=True)
            context = None
        block = with_remat(DiTBlock, self.remat, static=(5,))
        options = self.num_heads, self.mlp_ratio, self.dropout
        options = *options, self.attention_bias, self.mlp_epsilon
        blocks = [block(*options) for _ in seen]
        if self.scan_blocks and not self.is_initializing():
            h = self._scan(blocks, h, seen, mask, context, train)
        else:
            for block, each in zip(blocks, seen, strict=True):
                h = block(h, each, mask, context, train)
        h = h[:, :n_patches]
        if features:
            return h.reshape(len(x), *counts, -1), c

        h = layer_norm(h, *modulation(c, 2, self.hidden_size))
        channels *= 2 if self.learned_variance else 1
        features = self.patch_size ** len(counts) * channels
        h = Dense(features, kernel_init=ZERO, name="output")(h)
        return unpatchify(h, counts, self.patch_size).astype(jnp.float32)

    def _scan(
        self, blocks: Sequence[nn.Module], h: Tokens, seen: Sequence[Embedding], *arguments: Any
    ) -> Tokens:
        """The blocks in a loop; `arguments` are those of a block after its embedding."""
        weights = [self.variables["params"][str(block.name)] for block in blocks]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights)
        block: Any = blocks[0].clone(parent=None)
        noise = self.make_rng("dropout") if arguments[-1] and self.dropout else jax.random.key(0)

        def step(h, of_block):
            params, embedding, key = of_block
            made = block.apply({"params": params}, h, embedding, *arguments, rngs={"dropout": key})
            return made, None

        keys = jax.random.split(noise, len(blocks))
        h, _ = jax.lax.scan(step, h, (stacked, jnp.stack(seen), keys))
        return h

    def _embedding(self, labels: Array, encoded: dict[str, Embedding]) -> Embedding:
        others, sizes = dict(encoded), (self.hidden_size, self.frequency_shift)
        c = embed_labels(labels, others.pop("class", None), *sizes)
        for name, each in others.items():
            c += self._linear(use_bias=False, name=f"{name}_embedding")(each)
        return c

    def _linear(self, **options) -> nn.Dense:
        return linear(self.hidden_size, **options)

    def _context(self, c: Embedding, caption: Caption | None) -> tuple[Tokens, Mask | None]:
        """The sequence of c and the caption's tokens, and its mask (None: no caption)."""
        tokens = c[:, None].astype(self.dtype)
        if caption is None:
            return tokens, None
        words = self._linear(name="text_tokens")(caption.tokens)
        mask = jnp.pad(caption.mask, ((0, 0), (1, 0)), constant_values=True)
        return jnp.concatenate([tokens, words], 1), mask


class LabelEmbedding(nn.Module):
    """The embedding of noise level and class that one block sees.

    Attributes:
        features: of the embedding.
        frequency_shift: as of DiT.
    """

    features: int
    frequency_shift: int

    @nn.compact
    def __call__(self, labels: Float[Array, " batch"], classes: Embedding | None) -> Embedding:
        return embed_labels(labels, classes, self.features, self.frequency_shift)


def linear(features: int, **options) -> nn.Dense:
    """A linear layer of an embedding."""
    return Dense(features, kernel_init=initializers.normal(0.02), **options)


def embed_labels(
    labels: Float[Array, " batch"], classes: Embedding | None, features: int, shift: int
) -> Embedding:
    """The embedding of noise labels by two layers, plus that of classes [B, n_classes]."""
    c = linear(features)(positional_embedding(labels, DiT.nf, shift))
    c = linear(features)(nn.swish(c))
    if classes is not None:
        c += linear(features, use_bias=False, name="class_embedding")(classes)
    return c


class DiTBlock(nn.Module):
    """Self-attention and an MLP with adaLN-Zero conditioning on c (Section 3.2).

    A context adds cross-attention between them. The block is the identity at initialisation.

    Attributes:
        heads: attention heads.
        mlp_ratio: width of the MLP's hidden layer over the features of x.
        dropout: dropout probability of the residual branches in training.
        attention_bias: queries, keys and values have a bias.
        mlp_epsilon: epsilon of the normalisation before the MLP.
    """

    heads: int
    mlp_ratio: float
    dropout: float
    attention_bias: bool = True
    mlp_epsilon: float = 1e-6

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
        scale, shift, gate, scale_2, shift_2, gate_2 = modulation(c, 6, width)
        attention = TokenAttention(self.heads, use_bias=self.attention_bias, name="attention")
        x += gate * drop(attention(layer_norm(x, scale, shift), mask=mask))
        if context is not None:
            attention = TokenAttention(self.heads, ZERO, name="cross_attention")
            x += drop(attention(layer_norm(x, affine=True), *context))
        perceptron = Perceptron(int(self.mlp_ratio * width), name="perceptron")
        y = layer_norm(x, scale_2, shift_2, epsilon=self.mlp_epsilon)
        return x + gate_2 * drop(perceptron(y))


def modulation(c: Embedding, n: int, features: int) -> list[Tokens]:
    """n vectors [B, 1, features], linear in c: scales, shifts and gates, 0 at initialisation."""
    return jnp.split(Dense(n * features, kernel_init=ZERO, name="modulation")(c)[:, None], n, -1)


def check_patches(shape: tuple[int, ...], patch_size: int) -> None:
    """Raises ValueError unless patch_size divides every side of samples (*sides, C)."""
    if any(side % patch_size for side in shape[:-1]):
        raise ValueError(
            f"{describe(shape)} cannot be cut into patches of config.model.patch_size = "
            f"{patch_size}: choose a divisor of every side, or sides of "
            f"{nearest_sides(shape, patch_size)}"
        )


def patchify(x: Image, size: int) -> Tokens:
    """Cuts [B, *sides, C] into tokens [B, patches, size^n C], row by row, given n sides.

    The features of a token are its rows, columns and channels, in this order.
    """
    counts = tuple(side // size for side in x.shape[1:-1])
    x = x.reshape(len(x), *(n for count in counts for n in (count, size)), x.shape[-1])
    x = jnp.moveaxis(x, range(1, x.ndim - 1, 2), range(1, len(counts) + 1))
    return x.reshape(len(x), math.prod(counts), -1)


def unpatchify(tokens: Tokens, counts: Sequence[int], size: int) -> Image:
    """The inverse of patchify, given the number of patches along each side."""
    x = tokens.reshape(len(tokens), *counts, *(size for _ in counts), -1)
    x = jnp.moveaxis(x, range(1, len(counts) + 1), range(1, x.ndim - 1, 2))
    return x.reshape(len(tokens), *(count * size for count in counts), x.shape[-1])


def position_embedding(
    counts: Sequence[int], features: int
) -> Float[np.ndarray, "positions {features}"]:
    """Sines and cosines of a patch's place along each side, the last side first.

    Each of the n sides has features / (2 n) frequencies from 1 to about 1e-4. Features that do not
    divide are 0.
    """
    n = features // (2 * len(counts))
    frequencies = 10_000 ** (-np.arange(n) / n)
    places = np.indices(counts).reshape(len(counts), -1, 1)[::-1] * frequencies
    parts = [wave(place) for place in places for wave in (np.sin, np.cos)]
    embedding = np.concatenate(parts, -1, dtype=np.float32)
    return np.pad(embedding, ((0, 0), (0, features - embedding.shape[1])))
