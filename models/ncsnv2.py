"""NCSN (Song & Ermon 2019) and NCSNv2 (Song & Ermon 2020), as in the JAX version of score_sde.

Its PyTorch version differs: there the second stage is refined to nf channels, not 2 nf.
"""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from models.checked import CheckedNetwork, check_axes
from models.layers import ACTIVATIONS, check_halvings, level_sigma, with_remat
from models.refinenet import POOLS, InstanceNormPlus, RefineBlock, ResidualBlock, conv
from models.resample import Image
from sde_lib.batch import expand


class NCSNv2(CheckedNetwork):
    """NCSNv2 for images of 32 to 64 pixels: four stages of residual blocks and a RefineNet.

    Labels are indices of noise levels, 0 the highest. They only scale the output. Field names are
    those of score_sde's configs.

    Attributes:
        nf: channels at full resolution.
        nonlinearity: a name in layers.ACTIVATIONS.
        scale_by_sigma: divide the output by the sigma of its noise level.
        sigma_min: sigma of the last noise level.
        sigma_max: sigma of the first noise level.
        num_scales: number of noise levels, spaced geometrically.
        centered: data in [-1, 1]; if False, in [0, 1], which the network rescales to [-1, 1].
        remat: recompute each block's activations in the backward pass, to save memory.
    """

    nf: int = 128
    nonlinearity: str = "elu"
    scale_by_sigma: bool = True
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    num_scales: int = 232
    centered: bool = False
    remat: bool = False

    data_axes: ClassVar = (3,)
    stages: ClassVar = ((1, 1, 1), (2, 1, 2), (2, 2, 2), (2, 4, 2))
    """Per stage: channels / nf, dilation (1 halves the image), refined channels / nf."""
    norm_per_level: ClassVar = False

    @nn.compact
    def __call__(self, x: Image, labels: Float[Array, " batch"], train: bool = False) -> Image:
        """The network output, of the shape of x; labels may be fractions.

        Raises:
            ValueError: other data than images, or height or width cannot be halved once per later
                stage of dilation 1.
        """
        check_axes(self, x)
        check_halvings(x, sum(dilation == 1 for _, dilation, _ in self.stages[1:]))
        act = ACTIVATIONS[self.nonlinearity]

        def norm(h):
            return InstanceNormPlus(self.num_scales if self.norm_per_level else 1)(h, labels)

        refine_norm, pool = (norm, "mean") if self.norm_per_level else (lambda h: h, "max")
        residual = with_remat(ResidualBlock, self.remat, static=(2,))
        refine = with_remat(RefineBlock, self.remat, static=(2,))

        h = conv(self.nf)(x if self.centered else 2 * x - 1)
        maps = []
        for stage, (mult, dilation, _) in enumerate(self.stages):
            h = residual(mult * self.nf, act, dilation, shrink=stage > 0)(h, norm)
            h = residual(mult * self.nf, act, dilation)(h, norm)
            maps.append(h)

        refined = []
        for stage in reversed(range(len(self.stages))):
            features, units = self.stages[stage][2] * self.nf, 1 if stage else 3
            block = refine(features, act, POOLS[pool], units)
            refined = [block([maps[stage], *refined], refine_norm)]

        output = conv(x.shape[-1])(act(norm(refined[0])))
        if self.scale_by_sigma:
            sigma = level_sigma(labels, self.sigma_min, self.sigma_max, self.num_scales)
            output = output / expand(sigma, output)
        return output


class NCSN(NCSNv2):
    """NCSN: normalisation has parameters for each noise level, and the output is not scaled."""

    scale_by_sigma: bool = False
    sigma_max: float = 1.0
    num_scales: int = 10
    norm_per_level: ClassVar = True


class NCSNv2At128(NCSNv2):
    """NCSNv2 for images of 96 to 128 pixels: five stages."""

    stages: ClassVar = ((1, 1, 1), (2, 1, 1), (2, 1, 2), (4, 2, 2), (4, 4, 4))


class NCSNv2At256(NCSNv2):
    """NCSNv2 for images of up to 256 pixels: six stages."""

    stages: ClassVar = ((1, 1, 1), (2, 1, 1), (2, 1, 2), (2, 1, 2), (4, 2, 2), (4, 4, 4))
