"""The U-Net of DDPM (Ho et al. 2020, Appendix B), as configured in score_sde."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.checked import CheckedNetwork
from models.layers import (
    ACTIVATIONS,
    Attention,
    Downsample,
    ResnetBlock,
    Upsample,
    check_halvings,
    conv3x3,
    group_norm,
    init,
    level_sigma,
    positional_embedding,
    with_remat,
)
from models.resample import Image
from sde_lib.batch import expand

BOX = (1, 1)  # the resampling filter: nearest neighbour up, mean down


class DDPM(CheckedNetwork):
    """The U-Net of DDPM. Field names are those of score_sde's configs.

    Attributes:
        nf: channels at full resolution. Normalisation has min(channels, 32) groups, which must
            divide the channels of every level.
        ch_mult: channel multiplier of each level; each level halves the resolution of the previous.
        num_res_blocks: residual blocks per level (one more in the decoder).
        attn_resolutions: image heights at which attention follows each block.
        dropout: dropout probability in training.
        resamp_with_conv: resample with a convolution.
        conditional: condition on the noise labels.
        nonlinearity: a name in layers.ACTIVATIONS.
        scale_by_sigma: divide the output by the sigma of noise level number `labels`, of num_scales
            levels from sigma_max down to sigma_min.
        centered: data in [-1, 1]; if False, in [0, 1], which the network rescales to [-1, 1].
        learned_variance: twice the output channels; the second half is v (ScoreAndVariance).
        remat: recompute each block's activations in the backward pass, to save memory.
        dtype: dtype of the blocks; parameters, statistics, embedding and output stay float32.
    """

    nf: int = 128
    ch_mult: Sequence[int] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attn_resolutions: Sequence[int] = (16,)
    dropout: float = 0.1
    resamp_with_conv: bool = True
    conditional: bool = True
    nonlinearity: str = "swish"
    scale_by_sigma: bool = False
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    num_scales: int = 1000
    centered: bool = False
    learned_variance: bool = False
    remat: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Image, labels: Float[Array, " batch"], train: bool = False) -> Image:
        """The network output, of the shape of x; labels are 999 t, or (fractional) noise levels.

        Raises:
            ValueError: height or width is not divisible by 2^(levels - 1).
        """
        levels = len(self.ch_mult)
        check_halvings(x, levels - 1)
        act = ACTIVATIONS[self.nonlinearity]
        block = partial(
            with_remat(ResnetBlock, self.remat, static=(3,)),
            act=act,
            kind="ddpm",
            dropout=self.dropout,
            skip_rescale=False,
            init_scale=0.0,
            group_size=1,
        )
        attention = partial(
            with_remat(Attention, self.remat), skip_rescale=False, init_scale=0.0, group_size=1
        )

        def resample(layer, h):
            return layer(h.shape[-1] if self.resamp_with_conv else None, BOX, fir=False)(h)

        temb = None
        if self.conditional:
            temb = positional_embedding(labels, self.nf)
            temb = nn.Dense(4 * self.nf, kernel_init=init())(temb)
            temb = nn.Dense(4 * self.nf, kernel_init=init())(act(temb)).astype(self.dtype)

        h = conv3x3(self.nf)((x if self.centered else 2 * x - 1).astype(self.dtype))
        skips = [h]
        for level, mult in enumerate(self.ch_mult):
            if level:
                h = resample(Downsample, h)
                skips.append(h)
            for _ in range(self.num_res_blocks):
                h = block(self.nf * mult)(h, temb, train)
                if h.shape[1] in self.attn_resolutions:
                    h = attention()(h)
                skips.append(h)

        h = block(h.shape[-1])(h, temb, train)
        h = attention()(h)
        h = block(h.shape[-1])(h, temb, train)

        for level, mult in reversed(list(enumerate(self.ch_mult))):
            for _ in range(self.num_res_blocks + 1):
                h = block(self.nf * mult)(jnp.concatenate([h, skips.pop()], -1), temb, train)
            if h.shape[1] in self.attn_resolutions:
                h = attention()(h)
            if level:
                h = resample(Upsample, h)

        h = act(group_norm(h.shape[-1], group_size=1)(h))
        output = conv3x3(x.shape[-1] * (1 + self.learned_variance), 0.0)(h).astype(jnp.float32)
        if self.scale_by_sigma:
            sigma = level_sigma(labels, self.sigma_min, self.sigma_max, self.num_scales)
            output = output / expand(sigma, output)
        return output
