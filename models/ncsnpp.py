"""NCSN++ and DDPM++ (Song et al. 2021, Appendix H), and EDM's versions of both."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from models import conditions
from models.checked import CheckedNetwork
from models.layers import (
    ACTIVATIONS,
    Attention,
    Combine,
    CrossAttention,
    Downsample,
    Embedding,
    FourierEmbedding,
    ResnetBlock,
    Upsample,
    add_skip,
    check_halvings,
    conv3x3,
    group_norm,
    init,
    level_sigma,
    positional_embedding,
    with_fourier_features,
    with_remat,
)
from models.resample import Image, downsample, upsample
from sde_lib.batch import expand


class NCSNpp(CheckedNetwork):
    """The U-Net of the score-SDE paper. Field names are those of score_sde's configs.

    Attributes:
        nf: channels at full resolution.
        ch_mult: channel multiplier of each level; each level halves the resolution of the previous.
        num_res_blocks: residual blocks per level (one more in the decoder).
        attn_resolutions: image heights at which attention follows each block.
        dropout: dropout probability in training.
        resamp_with_conv: resample with a convolution (with "ddpm" blocks).
        conditional: condition on the noise labels.
        fir: resample with `fir_kernel`; if False, by nearest neighbours and mean pooling.
        fir_kernel: the resampling filter, in one dimension.
        skip_rescale: divide the sum at every skip connection by sqrt(2).
        resblock_type: "biggan" or "ddpm".
        progressive: output pyramid of the decoder: "none", "output_skip" or "residual".
        progressive_input: input pyramid of the encoder: "none", "input_skip" or "residual".
        progressive_combine: how "input_skip" joins the features: "sum" or "cat".
        init_scale: initial scale of the last layer of each branch; 0: blocks start as the identity.
        embedding_type: embedding of the noise labels: "fourier" or "positional".
        fourier_scale: standard deviation of the Fourier frequencies.
        log_labels: take Fourier features of log(labels); False (EDM): of the labels.
        noise_features: features of that embedding; 0: 2 nf with "fourier", nf with "positional".
        embedding_features: features of the label embedding that the blocks see; 0: 4 nf.
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
        nonlinearity: a name in layers.ACTIVATIONS.
        scale_by_sigma: divide the output by sigma. With "fourier" the label is sigma; with
            "positional" it is an index of num_scales levels from sigma_max down to sigma_min.
        fourier_features: exponents n of sin(2^n pi x) and cos(2^n pi x), extra input channels of
            x in [-1, 1] (Kingma et al. 2021, arXiv 2107.00630, Appendix C).
        centered: data in [-1, 1]; if False, in [0, 1], which the network rescales to [-1, 1].
        learned_variance: twice the output channels; the second half is v (ScoreAndVariance).
        periodic: the data go on at the other side, as fields on a torus do: so do convolutions and
            resampling, which otherwise see zeros there.
        remat: recompute each block's activations in the backward pass, to save memory.
        dtype: dtype of the blocks; parameters, statistics, embedding and output stay float32.
    """

    nf: int = 128
    ch_mult: Sequence[int] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: Sequence[int] = (16,)
    dropout: float = 0.1
    resamp_with_conv: bool = True
    conditional: bool = True
    fir: bool = True
    fir_kernel: Sequence[float] = (1, 3, 3, 1)
    skip_rescale: bool = True
    resblock_type: str = "biggan"
    progressive: str = "none"
    progressive_input: str = "residual"
    progressive_combine: str = "sum"
    init_scale: float = 0.0
    embedding_type: str = "fourier"
    fourier_scale: float = 16.0
    log_labels: bool = True
    noise_features: int = 0
    embedding_features: int = 0
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
    nonlinearity: str = "swish"
    scale_by_sigma: bool = True
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    num_scales: int = 1000
    fourier_features: Sequence[int] = ()
    centered: bool = False
    learned_variance: bool = False
    periodic: bool = False
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        pyramids = (self.progressive, self.progressive_input)
        if self.periodic and (self.resblock_type != "biggan" or "residual" in pyramids):
            raise ValueError(
                "config.model.periodic is True, but layers between the blocks would resample with "
                "zeros at the edges: set config.model.resblock_type='biggan', and progressive and "
                "progressive_input to another value than 'residual'"
            )

    @nn.compact
    def __call__(
        self,
        x: Image,
        labels: Float[Array, " batch"],
        train: bool = False,
        features: bool = False,
        **given: Array | None,
    ) -> Image | tuple[Image, Embedding | None]:
        """The network output, of the shape of x, given the noise labels of the parametrization.

        `given` are its conditions by keyword (models.conditions). With `features=True`: the
        features between encoder and decoder, and the label embedding.

        Raises:
            ValueError: height or width is not divisible by 2^(levels - 1); a condition is missing,
                unknown or misshapen.
        """
        levels, channels = len(self.ch_mult), x.shape[-1] * (1 + self.learned_variance)
        check_halvings(x, levels - 1)
        act = ACTIVATIONS[self.nonlinearity]
        kernel = tuple(self.fir_kernel) if self.fir else (1, 1)
        biggan = self.resblock_type == "biggan"
        padding = "CIRCULAR" if self.periodic else "SAME"
        resampling = {"kernel": kernel, "periodic": self.periodic}
        block = partial(
            with_remat(ResnetBlock, self.remat, static=(3,)),
            act=act,
            kind=self.resblock_type,
            dropout=self.dropout,
            skip_rescale=self.skip_rescale,
            init_scale=self.init_scale,
            padding=padding,
        )
        attention, cross_attention = (
            partial(with_remat(kind, self.remat), self.skip_rescale, self.init_scale)
            for kind in (Attention, CrossAttention)
        )
        grow = partial(Upsample, kernel=kernel, fir=self.fir)
        shrink = partial(Downsample, kernel=kernel, fir=self.fir)

        def head(h, features, scale):
            return conv3x3(features, scale, padding=padding)(act(group_norm(h.shape[-1])(h)))

        x, encoded, caption = conditions.encode(self, x, given)

        def attend(h):
            h = attention()(h)
            return h if caption is None else cross_attention()(h, caption.tokens, caption.mask)

        temb = None
        if self.conditional:
            if self.embedding_type == "fourier":
                label = jnp.log(labels) if self.log_labels else labels
                frequencies = self.noise_features // 2 or self.nf
                temb = FourierEmbedding(frequencies, self.fourier_scale)(label)
            else:
                temb = positional_embedding(labels, self.noise_features or self.nf)
            linear = partial(nn.Dense, temb.shape[-1], kernel_init=init())
            for name, each in encoded.items():
                is_class = name == "class"
                each = each * self.num_classes**0.5 if is_class else each
                temb += linear(name=f"{name}_embedding", use_bias=is_class)(each)
            width = self.embedding_features or 4 * self.nf
            temb = nn.Dense(width, kernel_init=init())(temb)
            temb = nn.Dense(width, kernel_init=init())(act(temb)).astype(self.dtype)

        x = x if self.centered else 2 * x - 1
        pyramid = x.astype(self.dtype)
        x = with_fourier_features(x, self.fourier_features).astype(self.dtype)
        h = conv3x3(self.nf, padding=padding)(x)
        skips = [h]

        for level, mult in enumerate(self.ch_mult):
            for _ in range(self.num_res_blocks):
                h = block(self.nf * mult)(h, temb, train)
                if h.shape[1] in self.attn_resolutions:
                    h = attend(h)
                skips.append(h)
            if level == levels - 1:
                break
            if biggan:
                resample = partial(downsample, **resampling)
                h = block(h.shape[-1], resample=resample)(h, temb, train)
            else:
                h = shrink(h.shape[-1] if self.resamp_with_conv else None)(h)
            if self.progressive_input == "input_skip":
                pyramid = downsample(pyramid, **resampling)
                h = Combine(self.progressive_combine)(pyramid, h)
            elif self.progressive_input == "residual":
                pyramid = shrink(h.shape[-1])(pyramid)
                h = pyramid = add_skip(pyramid, h, self.skip_rescale)
            skips.append(h)

        h = block(h.shape[-1])(h, temb, train)
        h = attend(h)
        h = block(h.shape[-1])(h, temb, train)
        if features:
            return h, temb

        output = None
        for level, mult in reversed(list(enumerate(self.ch_mult))):
            for _ in range(self.num_res_blocks + 1):
                h = block(self.nf * mult)(jnp.concatenate([h, skips.pop()], -1), temb, train)
            if h.shape[1] in self.attn_resolutions:
                h = attend(h)
            if self.progressive == "output_skip":
                grown = 0 if output is None else upsample(output, **resampling)
                output = grown + head(h, channels, self.init_scale)
            elif self.progressive == "residual" and output is None:
                output = head(h, h.shape[-1], 1.0)
            elif self.progressive == "residual":
                h = output = add_skip(grow(h.shape[-1])(output), h, self.skip_rescale)
            if level:
                if biggan:
                    resample = partial(upsample, **resampling)
                    h = block(h.shape[-1], resample=resample)(h, temb, train)
                else:
                    h = grow(h.shape[-1] if self.resamp_with_conv else None)(h)

        if output is None or self.progressive != "output_skip":
            output = head(h, channels, self.init_scale)
        output = output.astype(jnp.float32)
        if self.scale_by_sigma:
            sigma = labels
            if self.embedding_type == "positional":
                sigma = level_sigma(labels, self.sigma_min, self.sigma_max, self.num_scales)
            output = output / expand(sigma, output)
        return output
