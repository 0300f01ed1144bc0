"""LSUN bedrooms and churches, 256 x 256 pixels: all published experiments.

    python -m experiments.main --config=configs/lsun.py:church_ve_ncsnpp_continuous \\
        --config.data.path=church_outdoor_train.zip

| variant                      |  FID |  parameters |
| ---------------------------- | ---- | ----------- |
| bedroom_ncsnv2               |      |  83,445,379 |
| bedroom_ve_ncsnpp_continuous |      |  65,574,549 |
| bedroom_vp_ddpm              | 6.36 | 111,569,923 |
| church_ve_ncsnpp_continuous  |      |  65,574,549 |
| church_vp_ddpm               | 7.89 | 111,569,923 |

FID is reported by Ho et al. 2020, for their own code; Song et al. 2021 show samples. The path is a
folder or .zip of images of one category, of 256 x 256 pixels (ncsnv2: 128 x 128). Training takes
2.4 million steps of 64 images (ncsnv2: 128).
"""

from configs import default
from configs.published import DDPM_256, LARGE, NCSNPP_256, NCSNV2, Part, experiment

NCSNV2_BEDROOM: Part = {
    **NCSNV2,
    "training.batch_size": 128,
    "sampling.n_steps_each": 3,
    "sampling.snr": 0.095,
    "data.image_size": 128,
    "model.name": "ncsnv2_128",
    "model.sigma_max": 190.0,
    "model.num_scales": 1086,
    "model.ema_rate": 0.9999,
}
VARIANTS = {
    "bedroom_ncsnv2": (NCSNV2_BEDROOM,),
    "bedroom_ve_ncsnpp_continuous": (NCSNPP_256, {"model.sigma_max": 378.0}),
    "bedroom_vp_ddpm": (DDPM_256,),
    "church_ve_ncsnpp_continuous": (NCSNPP_256, {"model.sigma_max": 380.0}),
    "church_vp_ddpm": (DDPM_256,),
}


def get_config(variant: str = "bedroom_ve_ncsnpp_continuous") -> default.Config:
    """The config of a variant in the table above."""
    return experiment(LARGE, VARIANTS, variant)
