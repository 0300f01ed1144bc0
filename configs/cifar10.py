"""CIFAR-10, 32 x 32 colour images: all published experiments.

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
| lsgm_nll                      |  6.89 |      |         |     2.87 | 490,894,882 |
| indm_nll                      |  4.79 |      |         |     2.97 |  72,880,387 |
| edm_discriminator             |       |      |         |          |  23,835,010 |
| edm_discriminator_published   |       |      |         |          |  49,319,681 |
| edm_discriminator_conditional |       |      |         |          |  49,324,801 |
| sedm_gpp                      |  1.73 |      |         |          |  55,733,891 |
| sedm_gpp_50k                  |  1.73 |      |         |          |  55,733,891 |
| iddpm                         |  3.19 |      |         |     3.17 |  52,546,438 |
| iddpm_vlb                     | 11.47 |      |         |     2.94 |  52,546,438 |
| vdm                           |  7.41 |      |         |     2.65 |  30,586,243 |
| soft_truncation               |       |      |    3.45 |     2.88 |  61,804,419 |
| cld_sgm                       |  2.23 |      |    2.25 |     3.31 | 107,597,446 |

The figures are reported by Song et al. 2021 (Tables 2 and 3), and for ncsn (without the final
denoising) and ncsnv2 by Song and Ermon 2019 and 2020. Empty cells were not published. "ODE FID" is
the FID of samples of the probability flow ODE (--config.sampling.method=probability_flow), and
bits/dim its likelihood.

The figures of EDM are reported by Karras et al. 2022 (Table 2): the least of three, with 35 network
evaluations per sample. They call DDPM++ "VP" and NCSN++ "VE".

sedm_gpp samples edm_ddpmpp with epsilon scaling (Ning et al. 2023) and discriminator guidance (Kim
et al. 2023). Its FID of 1.73, at 35 network evaluations, is reported in a thesis and is not
reproduced here. These commands run it from the published weights in edm.npz
(docs/howto/weights.md); without the options of the first command, edm_ddpmpp is trained:

    main="python -m experiments.main --config=configs/cifar10.py"
    $main:edm_ddpmpp --mode=import --checkpoint=edm.npz
    $main:edm_ddpmpp --mode=generate --config.sampling.n_samples=50000
    $main:edm_discriminator
    $main:sedm_gpp --workdir=runs/cifar10-edm_ddpmpp --mode=sample
    $main:sedm_gpp --workdir=runs/cifar10-edm_ddpmpp --mode=evaluate --config.eval.features=FILE

edm_discriminator_published is the discriminator of Kim et al. 2023, in place of that of a head on
EDM's own encoder: an encoder of guided-diffusion, of which 2,883,841 parameters are trained, on the
features of a classifier of ImageNet. That comes first:

    python -m experiments.main --mode=import --checkpoint=32x32_classifier.pt \\
        --workdir=runs/imagenet32-classifier

It learns from 50,000 samples and all 50,000 images. They report an FID of 1.77 with it, without
epsilon scaling; that is not reproduced here. edm_discriminator_conditional sees the classes of the
samples of edm_ddpmpp_conditional too (they report 1.64). Weight decay is decoupled here; theirs is
a part of the gradient, to which 1e-7 of the weights makes no difference.

FILE holds Inception weights (docs/howto/evaluation.md). --mode=exposure_bias and --mode=ablate,
with the same workdir, help to choose the epsilon scaling and the guidance scales. sedm_gpp_50k has
the numbers of a full study: --mode=ablate chooses by 10,000 samples and reports five sets of
50,000, and --mode=evaluate measures three. That is days of an accelerator.

The last five rows have figures of their own papers: Nichol and Dhariwal 2021 (improved DDPM by
L_hybrid and by L_vlb, with 4000 steps of sampling), Kingma et al. 2021 (VDM, 1000 steps), Kim et
al. 2022 (Soft Truncation: DDPM++ with the likelihood weighting, k = 1) and Dockhorn et al. 2022
(CLD-SGM, 2000 steps). The bits/dim of iddpm, iddpm_vlb, vdm and cld_sgm are upper bounds. VDM's
own network adds its input to the noise that it predicts, and learns the ends of the noise schedule
too. The networks of cld_sgm give an output for the positions too, which is ignored.

Of these figures and those of LSGM and INDM, three were compared with other sources than our notes
of the papers: VDM's repository reports 2.637 bits/dim of its released weights, public lists have
the FID of 6.89 for LSGM, and summaries of improved DDPM have the 2.94 bits/dim of iddpm_vlb. The
others are the papers' tables as we noted them: compare them with the papers before you cite them.

lsgm_nll and indm_nll have the published score networks, noise and optimization, but other maps
between images and latents, so their figures (Vahdat et al. 2021, a bound; Kim et al. 2022) are not
theirs: an encoder and a decoder of residual blocks in place of NVAE's 4 groups of 45 channels, and
coupling layers in place of a residual flow. LSGM was trained from an autoencoder that had been
trained alone first, with Adamax; INDM's flow had a learning rate of its own, 1e-3.

The class-conditional samples of Song et al. use classifier guidance (guidance.classifier.run)
with the network of ve_classifier_continuous. The length of its training is not published.

Variants of score_sde without "continuous", and iddpm, have discrete noise levels. The digits after
ncsn are the techniques of NCSNv2 that are added to it (configs/published.py).

Training takes 1.3 million steps of 128 images (deep: 0.95 million; EDM: 0.39 million of 512, two
days on eight V100s; improved DDPM: 0.5 million, CLD-SGM: 0.8 million, VDM: 10 million), which is
not feasible on a CPU. The data (170 MB) are downloaded at the first start, unless config.data.path
is the official binary archive, its folder, or an .npz file with uint8 arrays `train` and `test`,
[N, 32, 32, 3].
"""

from configs import default
from configs.default import LEFT_OUT
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
    INDM,
    LSGM,
    NCSNPP,
    OF_CLASSES,
    PROTOCOL,
    PUBLISHED_DISCRIMINATOR,
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
from configs.variational import CLD, IDDPM, IDDPM_VLB, SOFT_TRUNCATION, VDM

DATASET: Part = {"data.dataset": "cifar10", "data.num_classes": 10, "model.dropout": 0.1}
CLASSIFIER: Part = {
    "training.n_iters": 200_001,
    "model.name": "wideresnet",
    "model.dropout": LEFT_OUT,
}
IDDPM_CIFAR10: Part = {
    "training.n_iters": 500_000,
    "model.ch_mult": (1, 2, 2, 2),
    "model.dropout": 0.3,
}
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
    "ve_classifier_continuous": (VE, CLASSIFIER),
    "edm_ddpmpp": (EDM, EDM_DDPMPP),
    "edm_ncsnpp": (EDM, EDM_NCSNPP),
    "edm_ddpmpp_conditional": (EDM, EDM_DDPMPP, CONDITIONAL),
    "edm_ncsnpp_conditional": (EDM, EDM_NCSNPP, CONDITIONAL),
    "lsgm_nll": (LSGM,),
    "indm_nll": (INDM,),
    "edm_discriminator": (EDM, EDM_DDPMPP, EDM_DISCRIMINATOR),
    "edm_discriminator_published": (PUBLISHED_DISCRIMINATOR,),
    "edm_discriminator_conditional": (PUBLISHED_DISCRIMINATOR, OF_CLASSES),
    "sedm_gpp": (EDM, EDM_DDPMPP, SEDM_GPP),
    "sedm_gpp_50k": (EDM, EDM_DDPMPP, SEDM_GPP, PROTOCOL),
    "iddpm": (IDDPM, IDDPM_CIFAR10),
    "iddpm_vlb": (IDDPM, IDDPM_CIFAR10, IDDPM_VLB),
    "vdm": (VDM,),
    "soft_truncation": (VP, DDPMPP, SOFT_TRUNCATION),
    "cld_sgm": (CLD,),
}


def get_config(variant: str = "ve_ncsnpp_continuous") -> default.Config:
    """The config of a variant in the table above."""
    return experiment(DATASET, VARIANTS, variant)
