"""ImageNet, 64 x 64 pixels and 1000 classes: the experiment of EDM.

    python -m experiments.main --config=configs/imagenet64.py --config.data.path=imagenet-64x64.zip

| variant |  FID |  parameters |
| ------- | ---- | ----------- |
| edm_adm | 1.36 | 295,899,267 |

FID is reported by Karras et al. 2022 (Section 5): the least of three, with the stochastic sampler
and 511 network evaluations per sample. The network is ADM (Dhariwal and Nichol 2021).

The path is a folder or .zip of 64 x 64 images, with a folder for each class or the dataset.json
that EDM's dataset tool writes. Training takes 0.61 million steps of 4096 images. The published
weights took thirteen days on 32 A100s in half precision.
"""

from configs import default
from configs.published import CONDITIONAL, EDM_64, EDM_ADM, Part, experiment

DATASET: Part = {
    **EDM_64,
    **CONDITIONAL,
    "training.n_iters": 610_352,  # 2500 million images
    "training.batch_size": 4096,
    "sampling.n_steps": 256,
    "sampling.s_churn": 40.0,
    "sampling.s_tmin": 0.05,
    "sampling.s_tmax": 50.0,
    "sampling.s_noise": 1.003,
    "data.num_classes": 1000,
    "data.augment": 0.0,
    "model.ema_halflife": 50e6,
    "model.augment_dim": 0,
    "model.dropout": 0.1,
    "optim.lr": 1e-4,
    "optim.warmup": 2441,
}
VARIANTS = {"edm_adm": (EDM_ADM,)}


def get_config(variant: str = "edm_adm") -> default.Config:
    """The config of a variant in the table above."""
    return experiment(DATASET, VARIANTS, variant)
