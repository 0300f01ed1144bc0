"""CIFAR-10, 32 x 32 colour images: the published continuous-time models.

    python -m experiments.main --config=configs/cifar10.py:ve_ncsnpp_continuous \\
        --config.data.path=cifar10.npz

| variant              | published (Song et al. 2021)                 | parameters |
| -------------------- | -------------------------------------------- | ---------- |
| ve_ncsnpp_continuous | FID 2.38, Inception score 9.83               | 62,758,915 |
| vp_ddpmpp_continuous | FID 2.55, IS 9.58, 3.16 bits/dim (ODE)       | 61,804,419 |

Training takes 1.3 million steps of 128 images, far beyond a CPU. The .npz file holds uint8 arrays
`train` and `test`, [N, 32, 32, 3].
"""

from configs import default

VARIANTS = ("ve_ncsnpp_continuous", "vp_ddpmpp_continuous")


def get_config(variant: str = "ve_ncsnpp_continuous") -> default.Config:
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    config.data.dataset = "cifar10"
    config.data.random_flip = True
    config.data.uniform_dequantization = False

    model = config.model
    model.ch_mult = (1, 2, 2, 2)
    model.attn_resolutions = (16,)
    model.resblock_type = "biggan"
    model.skip_rescale = True
    model.init_scale = 0.0
    model.dropout = 0.1

    if variant == "ve_ncsnpp_continuous":
        config.training.sde = "vesde"
        config.data.centered = False
        config.sampling.corrector = "langevin"
        model.embedding_type = "fourier"
        model.fourier_scale = 16.0
        model.scale_by_sigma = True
        model.ema_rate = 0.999
        model.fir = True
        model.progressive_input = "residual"
    else:
        config.training.reduce_mean = True
        config.sampling.predictor = "euler_maruyama"
        model.embedding_type = "positional"
        model.scale_by_sigma = False
        model.fir = False
        model.progressive_input = "none"
    return config
