"""Autoencoders of images, in whose latents diffusion is cheaper (Rombach et al. 2022)."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Float

from models.layers import (
    ACTIVATIONS,
    Attention,
    Conv,
    Downsample,
    ResnetBlock,
    Upsample,
    check_halvings,
    conv3x3,
    group_norm,
    recomputed,
)
from models.resample import Image

Latents = Float[Array, "batch h w latent_channels"]
BOX = (1, 1)  # the filter of resampling: nearest neighbours


class Levels(nn.Module):
    """What encoders, decoders and autoencoders have in common.

    Attributes:
        nf: channels at full resolution.
        ch_mult: their multiple at each level; each level has half the resolution of the one before.
        num_res_blocks: residual blocks a level (one more on the way up).
        attn_resolutions: heights at which the blocks are followed by attention; the smallest level
            always ends with some.
        skip_rescale: divide every skip connection's sum by sqrt(2).
        init_scale: of the last layer in each branch; 0 starts with the identity.
        nonlinearity: a name in layers.ACTIVATIONS.
        remat: compute each block's activations again in the backward pass, to save memory.
        dtype: of the blocks; parameters, statistics, and what comes out, are float32.
    """

    nf: int = 128
    ch_mult: Sequence[int] = (1, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: Sequence[int] = ()
    skip_rescale: bool = True
    init_scale: float = 0.0
    nonlinearity: str = "swish"
    remat: bool = False
    dtype: str = "float32"

    @nn.nowrap
    def block(self, h: Image, mult: int, attend: bool | None = None) -> Image:
        """A residual block; `attend`: then attention, None: if attn_resolutions says so."""
        act = ACTIVATIONS[self.nonlinearity]
        residual = recomputed(ResnetBlock, self.remat, static=(3,))
        options = act, "ddpm", 0.0, self.skip_rescale, self.init_scale
        h = residual(self.nf * mult, *options)(h, None, False)
        if h.shape[1] in self.attn_resolutions if attend is None else attend:
            h = recomputed(Attention, self.remat)(self.skip_rescale, self.init_scale)(h)
        return h

    @nn.nowrap
    def out(self, h: Image, features: int) -> Image:
        act = ACTIVATIONS[self.nonlinearity]
        return conv3x3(features)(act(group_norm(h.shape[-1])(h))).astype(jnp.float32)


class Encoder(Levels):
    """From images to `features` channels at the smallest level."""

    features: int = 4

    @nn.compact
    def __call__(self, x: Image) -> Image:
        check_halvings(x, len(self.ch_mult) - 1)
        h = conv3x3(self.nf)(x.astype(self.dtype))
        for level, mult in enumerate(self.ch_mult):
            if level:
                h = Downsample(h.shape[-1], BOX, fir=False)(h)
            for _ in range(self.num_res_blocks):
                h = self.block(h, mult)
        h = self.block(h, self.ch_mult[-1], attend=True)
        return self.out(self.block(h, self.ch_mult[-1], attend=False), self.features)


class Decoder(Levels):
    """From the smallest level to images of `features` channels."""

    features: int = 3

    @nn.compact
    def __call__(self, z: Latents) -> Image:
        mults = tuple(self.ch_mult)[::-1]
        h = conv3x3(self.nf * mults[0])(z.astype(self.dtype))
        h = self.block(self.block(h, mults[0], attend=True), mults[0], attend=False)
        for level, mult in enumerate(mults):
            if level:
                h = Upsample(self.nf * mult, BOX, fir=False)(h)
            for _ in range(self.num_res_blocks + 1):
                h = self.block(h, mult)
        return self.out(h, self.features)


class PatchDiscriminator(nn.Module):
    """Logits of overlapping patches of 22 x 22 pixels (Isola et al. 2017), high for the data's.

    With group normalisation, so that a sample's logits are its own.
    """

    nf: int

    @nn.compact
    def __call__(self, x: Image) -> Float[Array, "batch h w 1"]:
        conv = partial(Conv, kernel_size=(4, 4), kernel_init=initializers.normal(0.02))
        act = ACTIVATIONS["lrelu"]
        h = act(conv(self.nf, strides=2)(x))
        h = act(group_norm(2 * self.nf)(conv(2 * self.nf, strides=2)(h)))
        return conv(1)(h)


class Autoencoder(Levels):
    """An encoder, a decoder, and what their training takes besides.

    Attributes:
        latent_channels: of a latent, whose height and width are those of the smallest level.
        regularization: "kl": a latent is drawn from a Gaussian that the encoder gives, of diagonal
            covariance (Kingma & Welling 2014); "vq": decoding begins with the nearest vector of a
            codebook (van den Oord et al. 2017).
        codebook_size: of "vq".
        channels: of the images.
        adversarial: whether there is a patch discriminator.
        centered: data in [-1, 1]; otherwise [0, 1], which the networks map there and back.
    """

    latent_channels: int = 4
    regularization: str = "kl"
    codebook_size: int = 512
    channels: int = 3
    adversarial: bool = False
    centered: bool = True

    def setup(self):
        own = {field.name for field in dataclasses.fields(Levels)} - {"parent", "name"}
        levels: Any = {name: getattr(self, name) for name in own}
        is_kl = self.regularization == "kl"
        self.encoder = Encoder(**levels, features=(1 + is_kl) * self.latent_channels)
        self.decoder = Decoder(**levels, features=self.channels)
        if not is_kl:
            init = initializers.normal(1.0)
            self.codebook = self.param("codebook", init, (self.codebook_size, self.latent_channels))
        if self.adversarial:
            self.discriminator = PatchDiscriminator(self.nf)

    def __call__(self, x: Image, labels: Any = None, train: bool = False) -> Image:
        """The images' reconstructions, without noise; labels and `train` are for the others."""
        if self.adversarial and self.is_initializing():
            self.discriminate(x)
        return self.decode(self.encode(x)[0])

    def encode(self, x: Image) -> tuple[Latents, Latents | None]:
        """The latents' means and log-variances; under "vq" the latents, before the codes, and None.

        Raises:
            ValueError: height or width is not divisible by 2^(levels - 1).
        """
        h = self.encoder(x if self.centered else 2 * x - 1)
        if self.regularization == "vq":
            return h, None
        mean, log_variance = jnp.split(h, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30, 20)

    def decode(self, z: Latents) -> Image:
        """Images of latents; under "vq", of the codes nearest to them, straight through."""
        if self.regularization == "vq":
            z += lax.stop_gradient(self.quantize(z) - z)
        x = self.decoder(z)
        return x if self.centered else (x + 1) / 2

    def quantize(self, z: Latents) -> Latents:
        """The nearest vectors of the codebook, by Euclidean distance."""
        squares = jnp.sum(self.codebook**2, axis=1)
        products = jnp.matmul(z, self.codebook.T, precision="highest")
        return self.codebook[jnp.argmin(squares - 2 * products, axis=-1)]

    def discriminate(self, x: Image) -> Float[Array, "batch h w 1"]:
        """The logits of patches, high for the data's."""
        return self.discriminator(x if self.centered else 2 * x - 1)
