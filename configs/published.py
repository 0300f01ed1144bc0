"""Parts of the published experiments, which configs of several data sets share.

The experiments are those of score_sde (Song et al. 2021, Appendices G and H) and of EDM (Karras et
al. 2022, config F of Table 2; Appendix F.2 and the table of training options in EDM's repository).

A part is a dictionary from names of fields to values. The config of an experiment is the default
config, updated by the part of its data set and then by the parts of its variant.
"""

from configs import default
from configs.default import LEFT_OUT, Part

BASE: Part = {
    "data.random_flip": True,
    "data.uniform_dequantization": False,
    "sampling.predictor": "reverse_diffusion",
    "sampling.corrector": "none",
}


def experiment(
    dataset: Part, variants: dict[str, tuple[Part, ...]], variant: str
) -> default.Config:
    """The config of a variant of a data set.

    Options of a predictor-corrector that no part gives are score_sde's: model.num_scales steps, and
    one corrector step of ratio 0.16 at each.
    """
    config = default.experiment({**BASE, **dataset}, variants, variant)
    sampling = config.sampling
    if sampling.method == "predictor_corrector":
        sampling.n_steps = sampling.n_steps or config.model.num_scales
    if sampling.corrector in ("langevin", "ald"):
        sampling.n_steps_each = sampling.n_steps_each or 1
        sampling.snr = sampling.snr or 0.16
    return config


# SDEs, each with its objective and sampler.
VE: Part = {
    "training.sde": "vesde",
    "sampling.predictor": "reverse_diffusion",
    "sampling.corrector": "langevin",
    "data.centered": False,
    "model.scale_by_sigma": True,
    "model.ema_rate": 0.999,
}
VP: Part = {
    "training.sde": "vpsde",
    "training.reduce_mean": True,
    "sampling.predictor": "euler_maruyama",
    "model.scale_by_sigma": False,
}
SUBVP: Part = {**VP, "training.sde": "subvpsde"}
VE_DISCRETE: Part = {**VE, "training.continuous": False}
VP_DISCRETE: Part = {
    **VP,
    "training.continuous": False,
    "sampling.predictor": "ancestral_sampling",
}

# Networks.
DDPM: Part = {
    "model.name": "ddpm",
    "model.ch_mult": (1, 2, 2, 2),
    "model.num_res_blocks": 2,
    "model.attn_resolutions": (16,),
    "model.resamp_with_conv": True,
    "model.conditional": True,
    "model.nonlinearity": "swish",
}
NCSNPP: Part = {
    **DDPM,
    "model.name": "ncsnpp",
    "model.num_res_blocks": 4,
    "model.resblock_type": "biggan",
    "model.fir": True,
    "model.fir_kernel": (1, 3, 3, 1),
    "model.skip_rescale": True,
    "model.progressive": "none",
    "model.progressive_input": "residual",
    "model.progressive_combine": "sum",
    "model.init_scale": 0.0,
    "model.embedding_type": "positional",
}
DDPMPP: Part = {**NCSNPP, "model.fir": False, "model.progressive_input": "none"}
FOURIER: Part = {"model.embedding_type": "fourier", "model.fourier_scale": 16.0}
DEEP: Part = {"model.num_res_blocks": 8, "training.n_iters": 950_001}

# Latents trained with their score model, by the cross-entropy, with EDM's preconditioning of them.
JOINT: Part = {
    "training.sde": "geometric_vp",
    "objective.name": "cross_entropy",
    "model.parametrization": "edm",
    "model.sigma_data": 1.0,
    "model.log_labels": False,
    "model.scale_by_sigma": False,
}
LSGM: Part = {  # the model of the best likelihood: Vahdat et al. 2021, Appendix G
    **NCSNPP,
    **JOINT,
    "training.n_iters": 366_211,  # 1,875 epochs
    "training.batch_size": 256,
    "sampling.predictor": "euler_maruyama",
    "model.parametrization": "epsilon",
    "model.sigma_data": LEFT_OUT,
    "model.log_labels": LEFT_OUT,
    "model.variance_min": 3e-5,
    "model.variance_max": 0.999,
    "model.nf": 512,
    "model.ch_mult": (1, 1, 1),
    "model.num_res_blocks": 8,
    "model.progressive_input": "none",
    "model.dropout": 0.2,
    "latent.name": "lsgm",
    "latent.nf": 256,
    "latent.ch_mult": (1, 2),
    "latent.num_res_blocks": 3,
    "latent.channels": 180,
    "optim.lr": 1e-4,
}
INDM: Part = {  # VP, for the likelihood: Kim et al. 2022
    **VP,
    **DDPMPP,
    "training.reduce_mean": LEFT_OUT,
    "training.importance_sampling": True,
    "objective.name": "cross_entropy",
    "data.uniform_dequantization": True,
    "latent.name": "indm",
    "latent.nf": 512,
    "latent.num_layers": 32,
    "optim.weight_decay": 0.01,
    "optim.warmup": 0,
}
# EDM: the method and its training. Augmentation includes flips, so the data are not flipped.
EDM_METHOD: Part = {
    "sampling.predictor": LEFT_OUT,
    "sampling.corrector": LEFT_OUT,
    "training.sde": "edm",
    "noise_density.name": "log_normal",
    "weighting.name": "edm",
    "sampling.method": "edm",
    "sampling.n_steps": 18,
    "model.parametrization": "edm",
    "model.log_labels": False,
    "model.scale_by_sigma": False,
}
EDM: Part = {
    **EDM_METHOD,
    "training.n_iters": 390_625,  # 200 million images
    "training.batch_size": 512,
    "data.random_flip": False,
    "data.augment": 0.12,
    "model.ema_halflife": 500_000.0,
    "model.ema_rampup": 0.05,
    "model.augment_dim": 9,
    "model.dropout": 0.13,
    "optim.lr": 1e-3,
    "optim.warmup": 19_531,  # 10 million images
    "optim.grad_clip": -1.0,
    "optim.nan_to_num": True,
}
SEDM_GPP: Part = {  # epsilon scaling and discriminator guidance
    "guidance.discriminator.run": "runs/cifar10-edm_discriminator",
    "guidance.discriminator.weight": 1.67,
    "guidance.discriminator.weight_2nd_order": 0.0,
    "guidance.epsilon_scaling.scale": 1.0004,
}
PROTOCOL: Part = {  # arms are chosen by 10,000 samples and reported by 50,000, five seeds each
    "ablate.solvers": ("heun",),
    "ablate.nfe": (35,),
    "ablate.weights": (0.5, 1.0, 1.67, 2.0, 2.5, 3.0, 4.0),
    "ablate.scales": (1.0002, 1.0004, 1.0006, 1.001, 1.002, 1.005, 1.02, 1.05, 1.2),
    "ablate.step_slopes": (-2e-5, 2e-5),
    "ablate.slopes": (-1e-5, 1e-5),  # t is sigma, up to 80
    "ablate.n_samples": 10_000,
    "ablate.n_report": 50_000,
    "ablate.n_seeds": 5,
    "eval.num_samples": 50_000,
    "eval.n_seeds": 3,
    "sampling.batch_size": 0,
}
EDM_DISCRIMINATOR: Part = {  # a head on the encoder of a score network
    "training.n_iters": 50_000,  # 64 epochs of the data, and as many of samples
    "training.batch_size": 128,
    "noise_density.name": "log_uniform",
    "data.generated": "runs/cifar10-edm_ddpmpp/generated.npz",
    "data.random_flip": True,
    "data.augment": 0.0,
    "model.name": "discriminator",
    "model.encoder": "ncsnpp",
    "model.pretrained": "runs/cifar10-edm_ddpmpp",
    "optim.lr": 3e-4,
    "optim.warmup": 1000,
}
PUBLISHED_DISCRIMINATOR: Part = {  # of Kim et al. 2023: all samples and data, 60 epochs of both
    "training.sde": "vpsde",  # t from 1e-5 to 1; the discriminator goes by the noise level
    "training.n_iters": 46_875,
    "training.batch_size": 128,
    "training.snapshot_freq": 3906,  # 5 epochs; the checkpoints are kept
    "training.snapshot_freq_for_preemption": 3906,
    "noise_density.name": "log_uniform",
    "data.generated": "runs/cifar10-edm_ddpmpp/generated.npz",
    "data.generated_test_fraction": 0.0,
    "data.random_flip": False,
    "sampling.predictor": LEFT_OUT,
    "sampling.corrector": LEFT_OUT,
    "model.name": "discriminator",
    "model.parametrization": "edm_vp",
    "model.encoder": "adm_classifier",
    "model.pretrained": "runs/imagenet32-classifier",
    "model.nf": 128,
    "model.ch_mult": (1, 2, 4),
    "model.num_res_blocks": 4,
    "model.attn_resolutions": (),
    "model.attn_factors": (1, 2, 4),  # at 32, 16 and 8 pixels
    "model.group_size": 1,
    "model.dropout": 0.0,
    "model.head": "adm_classifier",  # of the features, 8 x 8 pixels
    "model.head_nf": 128,
    "model.head_ch_mult": (1,),
    "model.head_num_res_blocks": 2,
    "model.head_attn_resolutions": (),
    "model.head_attn_factors": (1,),
    "model.head_group_size": 1,
    "model.ema_rate": 0.0,
    "optim.lr": 3e-4,
    "optim.weight_decay": 1e-7,
    "optim.warmup": 0,
    "optim.grad_clip": -1.0,
}
OF_CLASSES: Part = {
    "data.generated": "runs/cifar10-edm_ddpmpp_conditional/generated.npz",
    "model.class_conditional": True,
}
EDM_64: Part = {  # images of 64 x 64 pixels
    **EDM,
    "training.n_iters": 781_250,
    "training.batch_size": 256,
    "sampling.n_steps": 40,
    "data.dataset": "folder",
    "data.image_size": 64,
    "data.augment": 0.15,
    "optim.lr": 2e-4,
    "optim.warmup": 39_062,
}
EDM_DDPMPP: Part = {**DDPMPP, "model.ch_mult": (2, 2, 2)}
EDM_NCSNPP: Part = {
    **EDM_DDPMPP,
    **FOURIER,
    "model.fir": True,
    "model.progressive_input": "residual",
}
# EDM2: the method and its training (Karras et al. 2024, config G; Appendix B and Table 6).
EDM2_METHOD: Part = {
    **EDM_METHOD,
    "training.reduce_mean": True,
    "objective.log_variance": 128,
    "sampling.n_steps": 32,
    "model.log_labels": LEFT_OUT,
    "model.name": "edm2",
    "model.logvar_channels": 128,
    "optim.beta2": 0.99,
    "optim.schedule": "inverse_sqrt",
    "optim.grad_clip": -1.0,
    "optim.nan_to_num": True,
}
EDM2: Part = {  # of ImageNet
    **EDM2_METHOD,
    "training.batch_size": 2048,
    "training.ema_freq": 4096,  # 8 x 2^20 images
    "data.dataset": "folder",
    "data.random_flip": False,
    "data.num_classes": 1000,
    "model.ch_mult": (1, 2, 3, 4),
    "model.num_res_blocks": 3,
    "model.attn_resolutions": (16, 8),
    "model.num_head_channels": 64,
    "model.class_conditional": True,
    "model.ema_profile": "power",
    "optim.warmup": 4883,  # 10 million images
}
EDM2_SIZES: dict[str, Part] = {
    size: {"model.nf": channels, "model.dropout": dropout, "optim.lr": rate}
    for size, channels, dropout, rate in (
        ("xs", 128, 0.0, 0.012),
        ("s", 192, 0.0, 0.01),
        ("m", 256, 0.1, 0.009),
        ("l", 320, 0.1, 0.008),
        ("xl", 384, 0.1, 0.007),
        ("xxl", 448, 0.1, 0.0065),
    )
}


def edm2_variants(part: Part, mebi_images: dict[str, int]) -> dict[str, tuple[Part, ...]]:
    """Variants "edm2_SIZE" of a data set, by the length of training in 2^20 images."""
    return {
        f"edm2_{size}": (EDM2, part, EDM2_SIZES[size], {"training.n_iters": length * 2**20 // 2048})
        for size, length in mebi_images.items()
    }


EDM_ADM: Part = {
    "model.log_labels": LEFT_OUT,
    "model.name": "adm",
    "model.nf": 192,
    "model.ch_mult": (1, 2, 3, 4),
    "model.num_res_blocks": 3,
    "model.attn_resolutions": (32, 16, 8),
    "model.num_head_channels": 64,
}
LEVELS_64: Part = {"model.ch_mult": (1, 2, 2, 2)}
CONDITIONAL: Part = {"model.class_conditional": True}

# Images of 256 x 256 pixels and more.
LARGE: Part = {
    "training.n_iters": 2_400_001,
    "training.batch_size": 64,
    "training.snapshot_freq_for_preemption": 5000,
    "sampling.snr": 0.075,
    "eval.batch_size": 64,
    "data.dataset": "folder",
    "data.image_size": 256,
    "model.num_scales": 2000,
    "model.dropout": 0.0,
}
DDPM_256: Part = {
    **VP_DISCRETE,
    **DDPM,
    "model.ch_mult": (1, 1, 2, 2, 4, 4),
    "sampling.snr": LEFT_OUT,
    "model.num_scales": 1000,
    "optim.lr": 2e-5,
}
NCSNPP_256: Part = {
    **VE,
    **NCSNPP,
    **FOURIER,
    "model.ch_mult": (1, 1, 2, 2, 2, 2, 2),
    "model.num_res_blocks": 2,
    "model.progressive": "output_skip",
    "model.progressive_input": "input_skip",
}
NCSNPP_1024: Part = {
    **NCSNPP_256,
    "training.batch_size": 8,
    "sampling.n_samples": 8,
    "sampling.batch_size": 8,
    "sampling.snr": 0.15,
    "eval.batch_size": 8,
    "data.image_size": 1024,
    "model.sigma_max": 1348.0,
    "model.ema_rate": 0.9999,
    "model.nf": 16,
    "model.ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
    "model.num_res_blocks": 1,
}

# NCSN (Song and Ermon 2019), and NCSNv2 (Song and Ermon 2020).
NCSN: Part = {
    **VE_DISCRETE,
    "model.dropout": LEFT_OUT,
    "sampling.predictor": "none",
    "sampling.corrector": "ald",
    "sampling.n_steps_each": 100,
    "sampling.snr": 0.316,
    "model.name": "ncsn",
    "model.nonlinearity": "elu",
    "model.scale_by_sigma": False,
    "model.sigma_max": 1.0,
    "model.num_scales": 10,
    "model.ema_rate": 0.0,
    "optim.lr": 1e-3,
    "optim.warmup": 0,
    "optim.grad_clip": -1.0,
}
NCSNV2: Part = {
    **NCSN,
    "model.name": "ncsnv2_64",
    "model.scale_by_sigma": True,
    "model.ema_rate": 0.999,
    "optim.lr": 1e-4,
}


def ncsn_variants(sigma_max: float, num_scales: int, snr: float) -> dict[str, tuple[Part, ...]]:
    """Variants of a data set: NCSN, NCSN with techniques of NCSNv2, and NCSNv2.

    Techniques 1, 2 and 4 choose the noise levels and the steps of Langevin dynamics, 3 is a network
    that is not conditioned on the noise level, and 5 is the EMA of the parameters.
    """
    levels: Part = {
        "sampling.n_steps_each": 5,
        "sampling.snr": snr,
        "model.sigma_max": sigma_max,
        "model.num_scales": num_scales,
    }
    average: Part = {"model.ema_rate": 0.999}
    return {
        "ncsn": (NCSN,),
        "ncsn_5": (NCSN, average),
        "ncsn_124": (NCSN, levels),
        "ncsn_1245": (NCSN, levels, average),
        "ncsnv2": (NCSNV2, levels),
    }
