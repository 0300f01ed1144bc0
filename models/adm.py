"""The ADM U-Net (Dhariwal & Nichol 2021), as configured in EDM (Karras et al. 2022, Appendix F)."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float

from models import conditions
from models.adm_blocks import EPSILON, ZERO, ADMNetwork, conv, dense
from models.layers import (
    CrossAttention,
    Embedding,
    check_halvings,
    group_norm,
)
from models.resample import Image
from models.text import Caption


class ADM(ADMNetwork):
    """A U-Net in which the noise level and the conditioning scale and shift every block.

    Biases start at 0. (EDM initialises them like the weights.)

    Attributes: those of ADMNetwork, and
        heads_upsample: attention heads of the decoder; 0: as in the encoder.
        num_classes: number of classes for class conditioning; 0: unconditional.
        augment_dim: number of augmentation labels (EDM: 9); 0: none.
        label_confidence: condition on the confidence of each class label, or caption.
        text: kind of caption, "bytes" or "embeddings" (models.text); "": no captions.
        text_length: maximum length of a caption, in bytes.
        text_width: features per token.
        text_depth: blocks of the transformer that encodes bytes.
        low_res: condition on a low-resolution image and its noise level (super-resolution).
        vector_dim: numbers in the vector that conditions it; 0: none.
        attributes: number of classes of each attribute that conditions it; (): none.
        image_channels: channels of the images that it sees beside x; 0: none.
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
    vector_dim: int = 0
    attributes: Sequence[int] = ()
    image_channels: int = 0
    learned_variance: bool = False

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

        `given` are its conditions by keyword (models.conditions). With `features=True`: the
        features between encoder and decoder, and the label embedding.

        Raises:
            ValueError: a side is not divisible by 2^(levels - 1); the heads do not divide the
                channels; a condition is missing, unknown or misshapen.
        """
        levels, channels = len(self.ch_mult), x.shape[-1]
        check_halvings(x, levels - 1)
        x, encoded, caption = conditions.encode(self, x, given)
        temb = self._embedding(labels, encoded)
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

    def _embedding(self, labels: Array, encoded: dict[str, Embedding]) -> Embedding:
        temb, augments = self._sinusoids(labels), encoded.pop("augment", None)
        if augments is not None:
            temb += dense(temb.shape[-1], ZERO, use_bias=False, name="augment_embedding")(augments)
        temb = self._embed_noise(temb)
        for name, each in encoded.items():
            init = {"kernel_init": initializers.normal(1.0)} if name == "class" else {}
            options = {"use_bias": False, "name": f"{name}_embedding"} | init
            temb += dense(temb.shape[-1], **options)(each)
        return nn.swish(temb).astype(self.dtype)

    def _attend(self, caption: Caption | None, heads: int, h: Image) -> Image:
        heads = self.n_heads(h.shape[-1], heads)
        h = self._attention(heads)(h)
        if caption is None:
            return h
        return self._attention(heads, CrossAttention)(h, caption.tokens, caption.mask)
