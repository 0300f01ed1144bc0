"""ImageNet, 512 x 512 pixels and 1000 classes, in latents of 64 x 64 x 4: the experiments of EDM2.

    main="python -m experiments.main --config=configs/imagenet512.py"
    $main:autoencoder --mode=import --checkpoint=sd-vae-ft-mse
    $main:edm2_xs --config.data.path=imagenet-512x512.zip

| variant     |  FID, length | with guidance: FID, length, weight |     steps |    parameters |
| ----------- | ------------ | ---------------------------------- | --------- | ------------- |
| autoencoder |              |                                    |           |    83,653,863 |
| edm2_xs     |  3.53, 0.135 |                   2.91, 0.045, 1.4 | 1,048,576 |   124,713,765 |
| edm2_s      |  2.56, 0.130 |                   2.23, 0.025, 1.4 | 1,048,576 |   280,213,477 |
| edm2_m      |  2.25, 0.100 |                   2.01, 0.030, 1.2 | 1,048,576 |   497,808,549 |
| edm2_l      |  2.06, 0.085 |                   1.88, 0.015, 1.2 |   917,504 |   777,498,981 |
| edm2_xl     |  1.96, 0.085 |                   1.85, 0.020, 1.2 |   655,360 | 1,119,284,773 |
| edm2_xxl    |  1.91, 0.070 |                   1.81, 0.015, 1.2 |   458,752 | 1,523,165,925 |

FID is reported by Karras et al. 2024 (Table 2): the least of three, with 63 evaluations of each
network. The length is that of the average of the weights, as a share of the training
(config.eval.ema_length). Guidance is by an unconditional network of size XS, and a step sees 2048
images.

autoencoder is Stable Diffusion's: sd-vae-ft-mse is the folder of stabilityai/sd-vae-ft-mse. EDM2
gives it images in [0, 1].

The path is a folder or .zip of 512 x 512 images, with a folder for each class or the dataset.json
that EDM's dataset tool writes.
"""

from configs import default
from configs.default import LEFT_OUT
from configs.published import Part, edm2_variants, experiment

IMAGES: Part = {
    "data.dataset": "folder",
    "data.image_size": 512,
    "data.centered": False,
    "data.num_classes": 1000,
}
AUTOENCODER: Part = {
    **dict.fromkeys(("sampling.predictor", "sampling.corrector"), LEFT_OUT),
    "data.random_flip": False,
    "model.name": "autoencoder",
    "model.ch_mult": (1, 2, 4, 4),
    "model.num_res_blocks": 2,
    "model.attn_resolutions": (),
    "model.norm_groups": 32,
    "model.skip_rescale": False,
    "model.wide_transitions": True,
    "model.quant_conv": True,
    "model.post_quant_conv": True,
    "model.rescale": False,
}
LATENTS: Part = {
    **IMAGES,
    "noise_density.mean": -0.4,
    "noise_density.std": 1.0,
    "data.autoencoder": "runs/imagenet512-autoencoder",
    "data.latent_mean": (5.81, 3.25, 0.12, -2.15),
    "data.latent_std": (8.34, 9.24, 7.42, 6.56),  # for latents of standard deviation 0.5
    "optim.decay_start": 70_000,
}
MEBI_IMAGES = {"xs": 2048, "s": 2048, "m": 2048, "l": 1792, "xl": 1280, "xxl": 896}
VARIANTS = {"autoencoder": (IMAGES, AUTOENCODER)} | edm2_variants(LATENTS, MEBI_IMAGES)


def get_config(variant: str = "edm2_xs") -> default.Config:
    """The config of a variant in the table above."""
    return experiment({}, VARIANTS, variant)
