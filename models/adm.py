"""The ADM U-Net (Dhariwal & Nichol 2021), as configured in EDM (Karras et al. 2022, Appendix F)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float

from models.adm_blocks import EPSILON, ZERO, ADMNetwork, conv, dense
from models.layers import (
    AugmentLabels,
    ClassLabels,
    Confidences,
    CrossAttention,
    Embedding,
    check_halvings,
    concatenate_low_res,
    encode_labels,
    group_norm,
)
from models.resample import Image
from models.text import Caption, Text, embed_text


class ADM(ADMNetwork):
    """A U-Net in which the noise level and the conditioning scale and shift every block.

    Biases start at 0. (EDM initialises them like the weights.)

    Attributes: those of ADMNetwork, and
        heads_upsample: attention heads of the decoder; 0: as in the encoder.
        num_classes: number of classes for class conditioning; 0: unconditional.
        augment_dim: number of augmentation labels (EDM: 9); 0: none.
        label_confidence: condition on the confidence of each class label.
        text: kind of caption, "bytes" or "embeddings" (models.text); "": no captions.
        text_length: maximum length of a caption, in bytes.
        text_width: features per token.
        text_depth: blocks of the transformer that encodes bytes.
        low_res: condition on a low-resolution image and its noise level (super-resolution).
        learned_variance: twice the output channels; the second half is v (ScoreAndVariance).
    """

    heads_upsample: int = 0
    num_classes: int = 0
    augment_dim: int = 0
    label_confidence: bool = False
    text: str = ""
    text_length: int = 64
    text_width: int = 128
    text_depth: int = 2
    low_res: bool = False
    learned_variance: bool = False

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
        low_res: Image | None = None,
        low_res_noise: Float[Array, " batch"] | None = None,
        features: bool = False,
    ) -> Image | tuple[Image, Embedding]:
        """The network output, of the shape of x, given the noise labels of the parametrization.

        With `features=True`: the features between encoder and decoder, and the label embedding.

        Raises:
            ValueError: a side is not divisible by 2^(levels - 1); the heads do not divide the
                channels; a condition is missing, unknown or misshapen (layers.encode_labels,
                layers.concatenate_low_res, text.embed_text).
        """
        levels, channels = len(self.ch_mult), x.shape[-1]
        check_halvings(x, levels - 1)
        caption = embed_text(self, len(x), text)
        x, noise = concatenate_low_res(self, x, low_res, low_res_noise)
        conditions = class_labels, augment_labels, confidences
        temb = self._embedding(labels, caption, noise, *conditions)
        attend = partial(self._attend, caption, self.heads)

        skips = self._encode(x, temb, train, attend)
        h = self._middle(skips[-1], temb, train, attend)
        if features:
            return h, temb

        attend = partial(self._attend, caption, self.heads_upsample or self.heads)
        for level, mult in reversed(list(enumerate(self.ch_mult))):
            if level < levels - 1:
                h = self._grow(h, temb, train)
            for _ in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], -1)
                h = self._block(self.nf * mult, h, temb, train)
                h = attend(h) if self.attends(level, h.shape[1]) else h

        h = nn.swish(group_norm(h.shape[-1], self.group_size, EPSILON)(h))
        channels *= 1 + self.learned_variance
        return conv(channels, ZERO)(h).astype(jnp.float32)

    def _embedding(
        self, labels, caption: Caption | None, noise: Embedding | None, *conditions
    ) -> Embedding:
        classes, augments, confidence = encode_labels(self, len(labels), *conditions)
        temb = self._sinusoids(labels)
        if augments is not None:
            temb += dense(temb.shape[-1], ZERO, use_bias=False, name="augment_embedding")(augments)
        temb = self._embed_noise(temb)
        width = temb.shape[-1]
        if classes is not None:
            normal = initializers.normal(1.0)
            temb += dense(width, normal, use_bias=False, name="class_embedding")(classes)
        if confidence is not None:
            temb += dense(width, use_bias=False, name="confidence_embedding")(confidence)
        if caption is not None:
            temb += dense(width, use_bias=False, name="text_embedding")(caption.pooled)
        if noise is not None:
            temb += dense(width, use_bias=False, name="low_res_embedding")(noise)
        return nn.swish(temb).astype(self.dtype)

    def _attend(self, caption: Caption | None, heads: int, h: Image) -> Image:
        heads = self.n_heads(h.shape[-1], heads)
        h = self._attention(heads)(h)
        if caption is None:
            return h
        return self._attention(heads, CrossAttention)(h, caption.tokens, caption.mask)
