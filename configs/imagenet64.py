"""ImageNet, 64 x 64 pixels and 1000 classes: the experiments of EDM, EDM2 and of improved DDPM.

    python -m experiments.main --config=configs/imagenet64.py --config.data.path=imagenet-64x64.zip

| variant           |  FID | bits/dim |    parameters |
| ----------------- | ---- | -------- | ------------- |
| edm_adm           | 1.36 |          |   295,899,267 |
| edm2_xs           |      |          |   124,711,461 |
| edm2_s            | 1.58 |          |   280,210,021 |
| edm2_m            | 1.43 |          |   497,803,941 |
| edm2_l            | 1.33 |          |   777,493,221 |
| edm2_xl           | 1.33 |          | 1,119,277,861 |
| iddpm             | 19.2 |     3.57 |   121,063,942 |
| iddpm_vlb         | 40.1 |     3.53 |   121,063,942 |
| iddpm_conditional | 2.92 |          |   273,049,350 |

FID of edm_adm is reported by Karras et al. 2022 (Section 5): the least of three, with the
stochastic sampler and 511 network evaluations per sample. The network is ADM (Dhariwal and Nichol
2021). That of edm2 is reported by Karras et al. 2024 (Table 3), with 63 evaluations, at the best
length of the average of the weights: 0.075 of the training for S, 0.06 for M, 0.04 for L and XL.
The others are reported by Nichol and Dhariwal 2021: iddpm (L_hybrid) and iddpm_vlb (L_vlb) without
classes and with 4000 steps, iddpm_conditional with classes and 250 steps.

The path is a folder or .zip of 64 x 64 images, with a folder for each class or the dataset.json
that EDM's dataset tool writes. Training of edm_adm takes 0.61 million steps of 4096 images (the
published weights took thirteen days on 32 A100s in half precision), of iddpm and iddpm_vlb 1.5
million of 128, of iddpm_conditional 0.25 million of 2048. That of edm2 takes 2^30 images for XS, S
and L, 2^31 for M and 0.67 billion for XL, in batches of 2048.
"""

from configs import default
from configs.published import CONDITIONAL, EDM_64, EDM_ADM, Part, edm2_variants, experiment
from configs.variational import IDDPM, IDDPM_VLB

EDM: Part = {
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
EDM2_64: Part = {
    "noise_density.mean": -0.8,
    "noise_density.std": 1.6,
    "data.image_size": 64,
    "optim.decay_start": 35_000,
}
MEBI_IMAGES = {"xs": 1024, "s": 1024, "m": 2048, "l": 1024, "xl": 640}
IDDPM_64: Part = {
    "training.n_iters": 1_500_000,
    "data.dataset": "folder",
    "data.image_size": 64,
    "model.ch_mult": (1, 2, 3, 4),
    "model.dropout": 0.0,
}
IDDPM_CONDITIONAL: Part = {
    **CONDITIONAL,
    "training.n_iters": 250_000,
    "training.batch_size": 2048,
    "objective.vlb_weight": 0.00025,  # 1 / num_scales: their bound is that of one step
    "sampling.n_steps": 250,
    "data.num_classes": 1000,
    "model.nf": 192,
    "model.label_scale": 1.0,
    "optim.lr": 3e-4,
}
VARIANTS = {
    "edm_adm": (EDM, EDM_ADM),
    **edm2_variants(EDM2_64, MEBI_IMAGES),
    "iddpm": (IDDPM, IDDPM_64),
    "iddpm_vlb": (IDDPM, IDDPM_64, IDDPM_VLB),
    "iddpm_conditional": (IDDPM, IDDPM_64, IDDPM_CONDITIONAL),
}


def get_config(variant: str = "edm_adm") -> default.Config:
    """The config of a variant in the table above."""
    return experiment({}, VARIANTS, variant)
