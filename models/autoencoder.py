"""Image autoencoders for latent diffusion (Rombach et al. 2022)."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Float

from models.checked import CheckedNetwork
from models.layers import (
    ACTIVATIONS,
    Attention,
    Conv,
    Downsample,
    ResnetBlock,
    Upsample,
    check_halvings,
    conv3x3,
    convolution_of,
    group_norm,
    init,
    with_remat,
)
from models.resample import Image

Latents = Float[Array, "batch *sides latent_channels"]
Patches = Float[Array, "batch *sides 1"]
BOX = (1, 1)  # the resampling filter: nearest neighbour


class AutoencoderModule(CheckedNetwork):
    """Base class of Encoder, Decoder and Autoencoder: their common fields and blocks.

    Attributes:
        nf: channels at full resolution.
        ch_mult: channel multiplier of each level; each level halves the resolution of the previous.
        num_res_blocks: residual blocks per level (one more in the decoder).
        attn_resolutions: lengths of the first side (image heights) at which attention follows each
            block. The smallest level has one attention layer besides.
        skip_rescale: divide the sum at every skip connection by sqrt(2).
        init_scale: initial scale of the last layer of each branch; 0: blocks start as the identity.
        nonlinearity: a name in layers.ACTIVATIONS.
        norm_groups: groups of every normalisation; 0: at most 32, of at least 4 channels.
        mid_attention: the smallest level has its attention layer.
        wide_transitions: the first convolution has the channels of the first level, and upsampling
            those of the smaller level (as in Stable Diffusion). If False, they have nf channels,
            and those of the larger level.
        remat: recompute each block's activations in the backward pass, to save memory.
        dtype: dtype of the blocks; parameters, statistics and outputs stay float32.
    """

    nf: int = 128
    ch_mult: Sequence[int] = (1, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: Sequence[int] = ()
    skip_rescale: bool = True
    init_scale: float = 0.0
    nonlinearity: str = "swish"
    norm_groups: int = 0
    mid_attention: bool = True
    wide_transitions: bool = False
    remat: bool = False
    dtype: str = "float32"

    @nn.nowrap
    def block(self, h: Image, mult: int, attend: bool | None = None) -> Image:
        """A residual block, then attention if `attend`; None: as attn_resolutions says."""
        act = ACTIVATIONS[self.nonlinearity]
        residual = with_remat(ResnetBlock, self.remat, static=(3,))
        options, groups = (self.skip_rescale, self.init_scale), self.norm_groups
        h = residual(self.nf * mult, act, "ddpm", 0.0, *options, groups=groups)(h, None, False)
        if h.shape[1] in self.attn_resolutions if attend is None else attend:
            h = with_remat(Attention, self.remat)(*options, groups=groups)(h)
        return h

    @nn.nowrap
    def middle(self, h: Image, mult: int) -> Image:
        """Two residual blocks with attention between them."""
        return self.block(self.block(h, mult, attend=self.mid_attention), mult, attend=False)

    @nn.nowrap
    def out(self, h: Image, features: int) -> Image:
        """The output layer: normalisation, activation, convolution to `features` channels."""
        act = ACTIVATIONS[self.nonlinearity]
        norm = group_norm(h.shape[-1], groups=self.norm_groups)
        return conv3x3(features)(act(norm(h))).astype(jnp.float32)


class Encoder(AutoencoderModule):
    """Maps images to `features` channels at the smallest level."""

    features: int = 4

    @nn.compact
    def __call__(self, x: Image) -> Image:
        check_halvings(x, len(self.ch_mult) - 1)
        first = self.ch_mult[0] if self.wide_transitions else 1
        h = conv3x3(self.nf * first)(x.astype(self.dtype))
        for level, mult in enumerate(self.ch_mult):
            if level:
                h = Downsample(h.shape[-1], BOX, fir=False)(h)
            for _ in range(self.num_res_blocks):
                h = self.block(h, mult)
        return self.out(self.middle(h, self.ch_mult[-1]), self.features)


class Decoder(AutoencoderModule):
    """Maps latents at the smallest level to images of `features` channels."""

    features: int = 3

    @nn.compact
    def __call__(self, z: Latents) -> Image:
        mults = tuple(self.ch_mult)[::-1]
        h = conv3x3(self.nf * mults[0])(z.astype(self.dtype))
        h = self.middle(h, mults[0])
        for level, mult in enumerate(mults):
            if level:
                width = h.shape[-1] if self.wide_transitions else self.nf * mult
                h = Upsample(width, BOX, fir=False)(h)
            for _ in range(self.num_res_blocks + 1):
                h = self.block(h, mult)
        return self.out(h, self.features)


class Pointwise(nn.Module):
    """A linear map of the channels at every position, with the parameters of a convolution.

    Attributes:
        features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: Image) -> Image:
        layer = Conv(self.features, (1,) * (x.ndim - 2), kernel_init=init())
        nn.share_scope(self, layer)
        return layer(x)


class PatchDiscriminator(nn.Module):
    """PatchGAN discriminator (Isola et al. 2017): logits of patches of side 22, high for data.

    Group normalisation replaces batch normalisation, so that samples do not affect each other.

    Attributes:
        nf: channels of the first layer.
    """

    nf: int

    @nn.compact
    def __call__(self, x: Image) -> Patches:
        conv = partial(convolution_of, 4, kernel_init=initializers.normal(0.02))
        act = ACTIVATIONS["lrelu"]
        h = act(conv(self.nf, strides=2)(x))
        h = act(group_norm(2 * self.nf)(conv(2 * self.nf, strides=2)(h)))
        return conv(1)(h)


class Autoencoder(AutoencoderModule):
    """An encoder and a decoder, with the codebook and the discriminator that training may add.

    Attributes:
        latent_channels: channels of the latents. Their sides are the smallest level's.
        regularization: "kl": the encoder gives the mean and the diagonal covariance of a Gaussian
            posterior (Kingma & Welling 2014); "vq": the decoder takes the nearest vectors of a
            codebook (van den Oord et al. 2017).
        codebook_size: number of codebook vectors under "vq".
        channels: channels of the images.
        adversarial: add a PatchDiscriminator.
        quant_conv: a linear map of the encoder's output.
        post_quant_conv: a linear map of the decoder's input.
        centered: data in [-1, 1]; if False, in [0, 1], and the inputs and outputs are rescaled.
        rescale: if False, data in [0, 1] are not rescaled (as EDM2 reads latents).
    """

    latent_channels: int = 4
    regularization: str = "kl"
    codebook_size: int = 512
    channels: int = 3
    adversarial: bool = False
    quant_conv: bool = False
    post_quant_conv: bool = False
    centered: bool = True
    rescale: bool = True

    def setup(self):
        own = {field.name for field in dataclasses.fields(AutoencoderModule)} - {"parent", "name"}
        levels: Any = {name: getattr(self, name) for name in own}
        is_kl = self.regularization == "kl"
        self.encoder = Encoder(**levels, features=(1 + is_kl) * self.latent_channels)
        self.decoder = Decoder(**levels, features=self.channels)
        if self.quant_conv:
            self.to_latents = Pointwise(self.encoder.features)
        if self.post_quant_conv:
            self.from_latents = Pointwise(self.latent_channels)
        if not is_kl:
            normal = initializers.normal(1.0)
            self.codebook = self.param(
                "codebook", normal, (self.codebook_size, self.latent_channels)
            )
        if self.adversarial:
            self.discriminator = PatchDiscriminator(self.nf)

    def __call__(self, x: Image, labels: Any = None, train: bool = False) -> Image:
        """Reconstructs images from the latent means. `labels` and `train` are ignored."""
        if self.adversarial and self.is_initializing():
            self.discriminate(x)
        return self.decode(self.encode(x)[0])

    def encode(self, x: Image) -> tuple[Latents, Latents | None]:
        """Means and log-variances of latents; under "vq", latents before quantisation, and None.

        Raises:
            ValueError: a side is not divisible by 2^(levels - 1).
        """
        h = self.encoder(x if self._in_range else 2 * x - 1)
        if self.quant_conv:
            h = self.to_latents(h)
        if self.regularization == "vq":
            return h, None
        mean, log_variance = jnp.split(h, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30, 20)

    def decode(self, z: Latents) -> Image:
        """Decodes latents to images. "vq" quantises them first, with straight-through gradients."""
        if self.regularization == "vq":
            z += lax.stop_gradient(self.quantize(z) - z)
        x = self.decoder(self.from_latents(z) if self.post_quant_conv else z)
        return x if self._in_range else (x + 1) / 2

    def quantize(self, z: Latents) -> Latents:
        """The nearest codebook vectors in Euclidean distance."""
        squares = jnp.sum(self.codebook**2, axis=1)
        products = jnp.matmul(z, self.codebook.T, precision="highest")
        return self.codebook[jnp.argmin(squares - 2 * products, axis=-1)]

    def discriminate(self, x: Image) -> Patches:
        """Patch logits of the discriminator, high for data."""
        return self.discriminator(x if self._in_range else 2 * x - 1)

    @property
    def _in_range(self) -> bool:
        """True if encoder and decoder take data as they are."""
        return self.centered or not self.rescale
