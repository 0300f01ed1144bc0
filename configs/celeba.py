"""CelebA, faces of 64 x 64 pixels: all published experiments.

    python -m experiments.main --config=configs/celeba.py:ve_ncsnpp --config.data.path=celeba.zip

| variant   |   FID | parameters |
| --------- | ----- | ---------- |
| ncsn      | 25.30 | 34,428,675 |
| ncsn_5    |       | 34,428,675 |
| ncsn_124  |       | 57,384,195 |
| ncsn_1245 |       | 57,384,195 |
| ncsnv2    | 10.23 | 33,970,563 |
| ve_ncsnpp |       | 62,693,251 |

FID is reported by Song and Ermon 2020. The path is a folder or .zip of 64 x 64 images, cropped to
the centre of the face. Training takes 1.3 million steps of 128 images.
"""

from configs import default
from configs.published import NCSNPP, VE_DISCRETE, Part, experiment, ncsn_variants

DATASET: Part = {
    "sampling.snr": 0.17,
    "data.dataset": "folder",
    "data.image_size": 64,
    "model.sigma_max": 90.0,
    "model.dropout": 0.1,
}
VARIANTS = {
    **ncsn_variants(sigma_max=90.0, num_scales=500, snr=0.128),
    "ve_ncsnpp": (VE_DISCRETE, NCSNPP),
}


def get_config(variant: str = "ve_ncsnpp") -> default.Config:
    """The config of a variant in the table above."""
    return experiment(DATASET, VARIANTS, variant)
