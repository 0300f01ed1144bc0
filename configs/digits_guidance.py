"""Discriminator guidance in its published form (Kim et al. 2023), small, for `digits:edm`.

The discriminator is an encoder of guided-diffusion on the features of a second, frozen encoder,
which was trained to classify noisy digits under VP. It is trained on all samples and all data,
without flips and without an EMA.

    main="python -m experiments.main --config=configs"
    $main/digits.py:edm
    $main/digits.py:edm --mode=generate --config.sampling.n_samples=1617
    $main/digits_guidance.py:classifier
    $main/digits_guidance.py:discriminator
    $main/digits.py:edm --mode=sample \
        --config.guidance.discriminator.run=runs/digits_guidance-discriminator

| variant       | description                               | training                    |
| ------------- | ----------------------------------------- | --------------------------- |
| classifier    | the frozen encoder, a classifier of digits | 1,500 steps of 64 digits   |
| discriminator | the trained encoder, of 4 x 4 x 64 values | 60 epochs of data and samples |

configs/cifar10.py:edm_discriminator_published is the published one.
"""

from configs import default
from configs.default import LEFT_OUT, Part
from configs.digits import BASE, UNET
from configs.published import PUBLISHED_DISCRIMINATOR

ENCODER: Part = {
    "model.nf": 32,
    "model.ch_mult": (1, 2),
    "model.num_res_blocks": 1,
    "model.attn_resolutions": (),
    "model.attn_factors": (2,),  # at 4 x 4 pixels
    "model.num_head_channels": 32,
    "model.group_size": 1,
    "model.dropout": 0.0,
}
CLASSIFIER: Part = {
    **dict.fromkeys(UNET, LEFT_OUT),
    **ENCODER,
    "model.name": "adm_classifier",
    "model.parametrization": "edm_vp",
    "noise_density.name": "log_uniform",
    "training.n_iters": 1500,
    "optim.lr": 1e-3,
}
DISCRIMINATOR: Part = {
    **PUBLISHED_DISCRIMINATOR,
    **ENCODER,
    "training.n_iters": 3030,
    "training.batch_size": 64,
    "training.snapshot_freq": 505,  # 10 epochs
    "training.snapshot_freq_for_preemption": 505,
    "data.generated": "runs/digits-edm/generated.npz",
    "model.pretrained": "runs/digits_guidance-classifier",
    "model.head_nf": 32,
    "model.head_num_head_channels": 32,
}
VARIANTS: dict[str, tuple[Part, ...]] = {
    "classifier": (CLASSIFIER,),
    "discriminator": (CLASSIFIER, DISCRIMINATOR),
}


def get_config(variant: str = "discriminator") -> default.Config:
    """The config of a variant in the table above."""
    return default.experiment(BASE, VARIANTS, variant)
