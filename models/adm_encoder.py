"""The encoder of ADM as a classifier of noisy images (Dhariwal & Nichol 2021, Section 4)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float

from models.adm_blocks import EPSILON, SCALE, ZERO, ADMNetwork, dense
from models.conditions import ClassLabels, encode_labels
from models.layers import Embedding, attend, check_halvings, group_norm, nin
from models.resample import Image, side_axes

HIDDEN = 2048  # features between the layers of the pools "spatial"


class ADMEncoder(ADMNetwork):
    """Base of the networks that pool what ADM's encoder gives.

    Attributes: those of ADMNetwork, and
        num_outputs: numbers that it gives for each image.
        pool: from the features at every pixel to these. "attention": their mean attends to them
            (CLIP's attention pooling). "adaptive": a linear map of their mean. "spatial" and
            "spatial_v2": two layers on the means of what every block gives.
    """

    num_outputs: int = 10
    pool: str = "attention"
    dropout: float = 0.0

    def _classify(self, x: Image, temb: Embedding, train: bool, features: bool = False) -> Any:
        check_halvings(x, len(self.ch_mult) - 1)
        outputs = self._encode(x, temb, train, self._attend)
        h = self._middle(outputs[-1], temb, train, self._attend)
        if features:
            return h, temb
        if self.pool.startswith("spatial"):
            return self._pool_all([*outputs, h])
        h = nn.swish(group_norm(h.shape[-1], self.group_size, EPSILON)(h))
        h = h.astype(jnp.float32)
        if self.pool == "adaptive":
            return dense(self.num_outputs, ZERO)(h.mean(side_axes(h)))
        heads = self.n_heads(h.shape[-1], 0)
        return AttentionPool(self.num_outputs, heads)(h)

    def _attend(self, h: Image) -> Image:
        return self._attention(self.n_heads(h.shape[-1], self.heads))(h)

    def _pool_all(self, outputs: list[Image]) -> Float[Array, "batch classes"]:
        means = [h.mean(side_axes(h), jnp.float32) for h in outputs]
        h = dense(HIDDEN)(jnp.concatenate(means, -1))
        if self.pool == "spatial":
            return dense(self.num_outputs)(nn.relu(h))
        h = group_norm(HIDDEN, self.group_size, EPSILON)(h[:, None, None])
        return dense(self.num_outputs)(nn.swish(h[:, 0, 0]))


class ADMClassifier(ADMEncoder):
    """Logits of the classes of noisy images; num_outputs is the number of classes."""

    @nn.compact
    def __call__(
        self,
        x: Image,
        labels: Float[Array, " batch"],
        train: bool = False,
        features: bool = False,
    ) -> Float[Array, "batch classes"] | tuple[Image, Embedding]:
        """The logits; x and labels are those of a score model of the same parametrization.

        With `features=True`: the features before pooling, and the label embedding.

        Raises:
            ValueError: a side is not divisible by 2^(levels - 1), or the heads do not divide the
                channels.
        """
        temb = self._embed_noise(self._sinusoids(labels))
        return self._classify(x, nn.swish(temb).astype(self.dtype), train, features)


class ADMHead(ADMEncoder):
    """The trained half of a discriminator (Kim et al. 2023): an encoder of another's features.

    It has the noise labels of the images that the features are of. Its one logit is that of data
    against samples.

    Attributes: those of ADMEncoder, and
        num_classes: classes of the images, with which it is conditioned; 0: none.
    """

    num_outputs: int = 1
    num_classes: int = 0
    centered: bool = True

    @nn.compact
    def __call__(
        self,
        h: Image,
        temb: Embedding,
        labels: Float[Array, " batch"],
        train: bool = False,
        class_labels: ClassLabels | None = None,
    ) -> Float[Array, "batch 2"]:
        """Logits of samples, which is 0, and of data.

        Raises:
            ValueError: class_labels are missing, or it is not conditioned on classes.
        """
        own = self._embed_noise(self._sinusoids(labels))
        classes, *_ = encode_labels(self, len(h), class_labels, None, None)
        if classes is not None:
            normal = initializers.normal(1.0)
            embed = dense(own.shape[-1], normal, use_bias=False, name="class_embedding")
            own += embed(classes)
        logit = self._classify(h, nn.swish(own).astype(self.dtype), train)
        return jnp.concatenate([jnp.zeros_like(logit), logit], -1)


class AttentionPool(nn.Module):
    """Attention of the mean over an image's positions to itself and to the positions.

    Attributes:
        features: output features.
        heads: number of heads, a divisor of the channels.
    """

    features: int
    heads: int

    @nn.compact
    def __call__(self, x: Image) -> Float[Array, "batch features"]:
        b, *_, c = x.shape
        tokens = x.reshape(b, -1, c)
        tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], 1)
        normal = initializers.normal(c**-0.5)
        tokens += self.param("positions", normal, (c, tokens.shape[1])).T
        q, k, v = (
            nin(c, SCALE, name=f"NIN_{i}")(seen).reshape(b, -1, self.heads, c // self.heads)
            for i, seen in enumerate((tokens[:, :1], tokens, tokens))
        )
        return nin(self.features, SCALE, name="NIN_3")(attend(q, k, v).reshape(b, c))
