"""FFHQ, faces of 64 x 64, 256 x 256 and 1024 x 1024 pixels: all published experiments.

    python -m experiments.main --config=configs/ffhq.py:ve_ncsnpp_continuous_256 \\
        --config.data.path=ffhq_256.zip

| variant                   |  FID |  parameters |
| ------------------------- | ---- | ----------- |
| ve_ncsnpp_continuous_256  |      |  65,574,549 |
| ve_ncsnpp_continuous_1024 |      | 105,785,896 |
| edm_ddpmpp                | 2.39 |  61,805,571 |
| edm_ncsnpp                | 2.53 |  62,761,219 |

Song et al. 2021 show samples and report no numbers. The FID of EDM, at 64 x 64 pixels, is reported
by Karras et al. 2022 (Table 2): the least of three, with 79 network evaluations per sample.

The path is a folder or .zip of images of the variant's size. Training takes 2.4 million steps of 64
images (of 8 at 1024 x 1024 pixels). EDM's takes 0.78 million steps of 256 images: four days on
eight V100s.
"""

from configs import default
from configs.published import (
    EDM_64,
    EDM_DDPMPP,
    EDM_NCSNPP,
    LARGE,
    LEVELS_64,
    NCSNPP_256,
    NCSNPP_1024,
    Part,
    experiment,
)

DROPOUT: Part = {"model.dropout": 0.05}
VARIANTS = {
    "ve_ncsnpp_continuous_256": (LARGE, NCSNPP_256, {"model.sigma_max": 348.0}),
    "ve_ncsnpp_continuous_1024": (LARGE, NCSNPP_1024, {"training.reduce_mean": True}),
    "edm_ddpmpp": (EDM_64, EDM_DDPMPP, LEVELS_64, DROPOUT),
    "edm_ncsnpp": (EDM_64, EDM_NCSNPP, LEVELS_64, DROPOUT),
}


def get_config(variant: str = "ve_ncsnpp_continuous_256") -> default.Config:
    """The config of a variant in the table above."""
    return experiment({}, VARIANTS, variant)
