"""CelebA-HQ, faces of 256 x 256 and 1024 x 1024 pixels: all published experiments.

    python -m experiments.main --config=configs/celebahq.py:ve_ncsnpp_continuous_256 \\
        --config.data.path=celebahq_256.zip

| variant                   |  parameters |
| ------------------------- | ----------- |
| ve_ncsnpp_continuous_256  |  65,574,549 |
| ve_ncsnpp_continuous_1024 | 105,785,896 |
| vp_ddpm_256               | 111,569,923 |

Song et al. 2021 show samples and report no numbers. The path is a folder or .zip of images of the
variant's size. Training takes 2.4 million steps of 64 images (of 8 at 1024 x 1024 pixels).
"""

from configs import default
from configs.published import DDPM_256, LARGE, NCSNPP_256, NCSNPP_1024, experiment

VARIANTS = {
    "ve_ncsnpp_continuous_256": (NCSNPP_256, {"model.sigma_max": 348.0}),
    "ve_ncsnpp_continuous_1024": (NCSNPP_1024,),
    "vp_ddpm_256": (DDPM_256,),
}


def get_config(variant: str = "ve_ncsnpp_continuous_256") -> default.Config:
    """The config of a variant in the table above."""
    return experiment(LARGE, VARIANTS, variant)
