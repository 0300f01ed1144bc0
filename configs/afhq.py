"""AFHQv2, animal faces of 64 x 64 pixels: all published experiments.

    python -m experiments.main --config=configs/afhq.py --config.data.path=afhqv2-64x64.zip

| variant    |  FID | parameters |
| ---------- | ---- | ---------- |
| edm_ddpmpp | 1.96 | 61,805,571 |
| edm_ncsnpp | 2.16 | 62,761,219 |

FID is reported by Karras et al. 2022 (Table 2): the least of three, with 79 network evaluations per
sample. The path is a folder or .zip of 64 x 64 images. Training takes 0.78 million steps of 256
images: four days on eight V100s.
"""

from configs import default
from configs.published import EDM_64, EDM_DDPMPP, EDM_NCSNPP, LEVELS_64, Part, experiment

DATASET: Part = {**EDM_64, "model.dropout": 0.25}
VARIANTS = {
    "edm_ddpmpp": (EDM_DDPMPP, LEVELS_64),
    "edm_ncsnpp": (EDM_NCSNPP, LEVELS_64),
}


def get_config(variant: str = "edm_ddpmpp") -> default.Config:
    """The config of a variant in the table above."""
    return experiment(DATASET, VARIANTS, variant)
