"""CIFAR-10, 32 x 32 colour images: every published experiment.

    python -m experiments.main --config=configs/cifar10.py:ve_ncsnpp_continuous

| variant                       |   FID |   IS | ODE FID | bits/dim |  parameters |
| ----------------------------- | ----- | ---- | ------- | -------- | ----------- |
| ncsn                          | 25.32 | 8.87 |         |          |  34,428,675 |
| ncsn_5                        |       |      |         |          |  34,428,675 |
| ncsn_124                      |       |      |         |          |  44,828,931 |
| ncsn_1245                     |       |      |         |          |  44,828,931 |
| ncsnv2                        | 10.87 | 8.40 |         |          |  33,970,563 |
| ve_ddpm                       |       |      |         |          |  35,218,947 |
| ve_ncsnpp                     |  2.45 | 9.73 |         |          |  62,693,251 |
| ve_ncsnpp_continuous          |  2.38 | 9.83 |         |          |  62,758,915 |
| ve_ncsnpp_deep_continuous     |  2.20 | 9.89 |         |          | 107,587,075 |
| vp_ddpm                       |  3.24 |      |    3.37 |     3.28 |  35,218,947 |
| vp_ddpm_unconditional         |       |      |         |          |  32,329,347 |
| vp_ddpm_continuous            |       |      |    3.69 |     3.21 |  35,218,947 |
| vp_ddpmpp                     |  2.78 | 9.64 |         |          |  61,804,419 |
| vp_ddpmpp_continuous          |  2.55 | 9.58 |    3.93 |     3.16 |  61,804,419 |
| vp_ddpmpp_deep_continuous     |  2.41 | 9.68 |    3.08 |     3.13 | 106,632,579 |
| vp_ncsnpp                     |       |      |         |          |  62,693,251 |
| vp_ncsnpp_continuous          |       |      |         |          |  62,693,251 |
| vp_ncsnpp_deep_continuous     |       |      |         |          | 107,521,411 |
| subvp_ddpm_continuous         |       |      |    3.56 |     3.05 |  35,218,947 |
| subvp_ddpmpp_continuous       |  2.61 | 9.56 |    3.16 |     3.02 |  61,804,419 |
| subvp_ddpmpp_deep_continuous  |  2.41 | 9.57 |    2.92 |     2.99 | 106,632,579 |
| subvp_ncsnpp_continuous       |       |      |         |          |  62,693,251 |
| subvp_ncsnpp_deep_continuous  |       |      |         |          | 107,521,411 |
| ve_classifier_continuous      |       |      |         |          |  38,913,242 |
| edm_ddpmpp                    |  1.97 |      |         |          |  55,733,891 |
| edm_ncsnpp                    |  1.98 |      |         |          |  56,397,955 |
| edm_ddpmpp_conditional        |  1.79 |      |         |          |  55,735,299 |
| edm_ncsnpp_conditional        |  1.79 |      |         |          |  56,400,771 |
| edm_discriminator             |       |      |         |          |  23,835,010 |
| sedm_gpp                      |  1.73 |      |         |          |  55,733,891 |

Song et al. 2021 (Tables 2 and 3) report these, Song and Ermon 2019 and 2020 those of ncsn (without
the last denoising) and ncsnv2; nothing else was published. "ODE FID" is of samples of the
probability flow ODE (--config.sampling.method=probability_flow), bits/dim its likelihood.

Karras et al. 2022 (Table 2) report EDM's, each the least of three, with 35 network evaluations a
sample; "VP" is what they call DDPM++, and "VE" NCSN++.

sedm_gpp is edm_ddpmpp, sampled with epsilon scaling (Ning et al. 2023) and the guidance of a
discriminator (Kim et al. 2023); 1.73 is what a thesis reports of the two together, at 35 network
evaluations, and is not reproduced here. All of it, from published weights (README.md tells how to
make edm.npz; without the first command's options, edm_ddpmpp is trained):

    main="python -m experiments.main --config=configs/cifar10.py"
    $main:edm_ddpmpp --mode=import --checkpoint=edm.npz
    $main:edm_ddpmpp --mode=generate --config.sampling.n_samples=50000
    $main:edm_discriminator
    $main:sedm_gpp --workdir=runs/cifar10-edm_ddpmpp --mode=sample
    $main:sedm_gpp --workdir=runs/cifar10-edm_ddpmpp --mode=evaluate --config.eval.features=FILE

FILE has Inception's weights (README.md, Evaluation). --mode=exposure_bias and --mode=ablate, in
the same folder, tell what b and the weights should be.

The class-conditional samples of Song et al. are guided by the network of ve_classifier_continuous
(config.guidance.classifier.run); how long it was trained is not published.

Without "continuous", training sees the levels of a chain only. The digits after ncsn are the
techniques of NCSNv2 that it was given (configs/published.py).

Training takes 1.3 million steps of 128 images (deep: 0.95 million; EDM: 0.39 million of 512, two
days of eight V100s), far beyond a CPU. The data
(170 MB) are downloaded at the first start, unless config.data.path is the official binary archive,
its folder, or an .npz file with uint8 arrays `train` and `test`, [N, 32, 32, 3].
"""

from configs import default
from configs.published import (
    CONDITIONAL,
    DDPM,
    DDPMPP,
    DEEP,
    EDM,
    EDM_DDPMPP,
    EDM_DISCRIMINATOR,
    EDM_NCSNPP,
    FOURIER,
    NCSNPP,
    SEDM_GPP,
    SUBVP,
    VE,
    VE_DISCRETE,
    VP,
    VP_DISCRETE,
    Part,
    experiment,
    ncsn_variants,
)

DATASET: Part = {"data.dataset": "cifar10", "data.num_classes": 10, "model.dropout": 0.1}
VARIANTS = {
    **ncsn_variants(sigma_max=50.0, num_scales=232, snr=0.176),
    "ve_ddpm": (VE_DISCRETE, DDPM),
    "ve_ncsnpp": (VE_DISCRETE, NCSNPP),
    "ve_ncsnpp_continuous": (VE, NCSNPP, FOURIER),
    "ve_ncsnpp_deep_continuous": (VE, NCSNPP, FOURIER, DEEP),
    "vp_ddpm": (VP_DISCRETE, DDPM),
    "vp_ddpm_unconditional": (VP_DISCRETE, DDPM, {"model.conditional": False}),
    "vp_ddpm_continuous": (VP, DDPM),
    "vp_ddpmpp": (VP_DISCRETE, DDPMPP),
    "vp_ddpmpp_continuous": (VP, DDPMPP),
    "vp_ddpmpp_deep_continuous": (VP, DDPMPP, DEEP),
    "vp_ncsnpp": (VP_DISCRETE, NCSNPP, {"sampling.predictor": "reverse_diffusion"}),
    "vp_ncsnpp_continuous": (VP, NCSNPP),
    "vp_ncsnpp_deep_continuous": (VP, NCSNPP, DEEP),
    "subvp_ddpm_continuous": (SUBVP, DDPM),
    "subvp_ddpmpp_continuous": (SUBVP, DDPMPP),
    "subvp_ddpmpp_deep_continuous": (SUBVP, DDPMPP, DEEP),
    "subvp_ncsnpp_continuous": (SUBVP, NCSNPP),
    "subvp_ncsnpp_deep_continuous": (SUBVP, NCSNPP, DEEP),
    "ve_classifier_continuous": (VE, {"model.name": "wideresnet", "training.n_iters": 200_001}),
    "edm_ddpmpp": (EDM, EDM_DDPMPP),
    "edm_ncsnpp": (EDM, EDM_NCSNPP),
    "edm_ddpmpp_conditional": (EDM, EDM_DDPMPP, CONDITIONAL),
    "edm_ncsnpp_conditional": (EDM, EDM_NCSNPP, CONDITIONAL),
    "edm_discriminator": (EDM, EDM_DDPMPP, EDM_DISCRIMINATOR),
    "sedm_gpp": (EDM, EDM_DDPMPP, SEDM_GPP),
}


def get_config(variant: str = "ve_ncsnpp_continuous") -> default.Config:
    return experiment(DATASET, VARIANTS, variant)
