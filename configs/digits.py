"""Handwritten digits of scikit-learn, 8 x 8 pixels in 17 grey levels: minutes on a CPU.

    python -m experiments.main --config=configs/digits.py

| variant      | description                                | two CPU cores | test bits/dim |
| ------------ | ------------------------------------------ | ------------- | ------------- |
| vp           | the default: VP, EDM's preconditioning     | 4 minutes     | 1.89 +- 0.014 |
| vp_score_sde | VP with score_sde's conventions            | 5 minutes     | 1.98 +- 0.015 |
| ve           | VE, NCSN++'s conventions                   | 5 minutes     | not measured  |
| subvp        | subVP with score_sde's conventions         | 5 minutes     | not measured  |
| long         | vp_score_sde with dropout, longer          | 50 minutes    | see below     |
| edm          | EDM                                        | 5 minutes     | 1.88 +- 0.014 |
| edm2         | EDM2                                       | 10 minutes    | not measured  |
| vdm          | VDM, learned schedule                      | 5 minutes     | 1.83 +- 0.014 |
| vdm_fixed    | VDM, log-SNR linear in t                   | 5 minutes     | not measured  |
| flow         | flow matching                              | not measured  | not measured  |
| coupled      | flow, with the nearest noise of a batch    | not measured  | not measured  |
| vlb          | DDPM with learned variance                 | 5 minutes     | not measured  |
| lsgm         | LSGM, latents of 4 x 4 x 4                 | 8 minutes     | 1.90 +- 0.017 |
| indm         | INDM, 4 coupling layers before VP          | 7 minutes     | 1.91 +- 0.015 |
| consistency  | consistency model, distilled from edm      | 5 minutes     | has no score  |
| meanflow     | mean flow                                  | 6 minutes     | not measured  |
| enlarge      | vp, conditional on means of 2 x 2 pixels   | 4 minutes     | 1.22 +- 0.014 |
| enlarge_bridge | enlarge by bridges from the means        | not measured  | none          |
| complete     | vp, conditional on the left half           | 4 minutes     | 1.10 +- 0.011 |
| captions     | vp, captions with confidences              | not measured  | not measured  |

The network of vp sees log(sigma / alpha) / 4, EDM's label, which is smooth in time. It trains to
better bits/dim than that of vp_score_sde, which sees 999 t. Its likelihood takes 49 network
evaluations in place of about 180.

Samplers were chosen by the Fréchet distance of 400 to 512 samples (random features):

| trained, steps     | edm, 35 | dpmpp_2m, 20 | unipc, 20 | dpmpp_2m_sde, 40 | reverse diffusion |
| ------------------ | ------- | ------------ | --------- | ---------------- | ----------------- |
| vp, 1400           | 0.013   | 0.013        | 0.015     | 0.013            | 0.018 (at 100)    |
| vp_score_sde, 1000 | 0.042   | 0.043        | 0.050     | 0.034            | 0.046 (at 300)    |
| subvp, 600         | 0.205   | 0.200        | 0.227     | 0.093            | 0.116 (at 300)    |
| ve, 600            | 0.192   | 0.198        | 0.207     | 0.060            | 0.056 (at 300)    |

The numbers in the titles are network evaluations; half of the data has 0.007. Noise corrects the
errors of networks that are rough in time, so these take dpmpp_2m_sde.

enlarge and complete make digits of a part of them (config.image_condition): of those of the test
set, or of --config.sampling.condition=FILE. Their bits/dim are of the digit given that part.

captions reads captions.jsonl, which docs/howto/caption_confidence.md makes.

classifier (1 minute) classifies noisy digits, for classifier guidance of vp; edm_classifier does so
for edm. discriminator (2 minutes) separates samples of edm from data, for discriminator guidance of
edm (Kim et al. 2023):

    main="python -m experiments.main --config=configs/digits.py"
    $main:edm
    $main:edm --mode=generate --config.sampling.n_samples=6000
    $main:discriminator
    $main:edm --mode=evaluate --config.guidance.discriminator.run=runs/digits-discriminator

The discriminator is a head on the frozen encoder of edm (config.model.encoder and pretrained).

Fréchet and kernel distance of 4,000 samples to the training data (--mode=evaluate, with random
features), at a number of network evaluations per sample: edm 0.0065 and 0.00008 at 35;
vp_score_sde 0.027 and 0.0007 at 300 by predictor_corrector, 0.021 and 0.0002 at 35 by edm. With 127
evaluations, edm is no better (0.012 and 0.0003).

The variational bound of VDM (--mode=evaluate) is 1.781 +- 0.013 for vdm and 1.808 +- 0.013 for
vdm_fixed. They differ by 0.027 +- 0.002 on the same images and noise (one seed, 100 noise levels
per image). Both bounds are for the grey levels themselves, without uniform dequantization, which
was not used in training either: the least noise is a seventh of a step between grey levels.

The figures of lsgm and indm are those of 1,234 and 1,542 steps, in 300 seconds of processor time.
In the same time vp has 1.874 and vdm 1.822 (docs/studies/variational.md).

consistency is distilled from the run of edm, so train that first:

    $main:edm
    $main:consistency

consistency and meanflow sample in one to four steps: docs/howto/few_steps.md has the distances.

long was measured at 5,153 of its 25,000 steps, after ten minutes: 1.85 +- 0.014.

For comparison, a Gaussian with full covariance has 2.97 bits/dim, and a histogram per pixel has
2.44.
"""

from configs import default
from configs.default import LEFT_OUT, Part
from configs.published import EDM2_METHOD, EDM_METHOD, JOINT

UNET: Part = {
    "model.nf": 32,
    "model.ch_mult": (1, 2),
    "model.num_res_blocks": 1,
    "model.attn_resolutions": (4,),
    "model.resblock_type": "biggan",
    "model.skip_rescale": True,
    "model.init_scale": 0.0,
    "model.embedding_type": "positional",
    "model.progressive_input": "none",
    "model.scale_by_sigma": False,
    "model.fir": False,
    "model.dropout": 0.0,
}
BASE: Part = {
    **UNET,
    "data.dataset": "digits",
    "data.image_size": 8,
    "data.num_channels": 1,
    "data.num_classes": 10,
    "training.batch_size": 64,
    "training.n_iters": 1600,
    "training.snapshot_freq": 400,
    "training.snapshot_freq_for_preemption": 400,
    "training.eval_freq": 400,
    "objective.stratified": True,
    "sampling.method": "dpmpp_2m_sde",
    "sampling.n_steps": 40,
    "eval.batch_size": 297,
    "eval.num_samples": 1000,
    "model.ema_rate": 0.999,
    "optim.lr": 2e-3,
    "optim.warmup": 100,
}
LIKELIHOOD: Part = {"training.likelihood_weighting": True, "training.importance_sampling": True}
EDM: Part = {**EDM_METHOD, "model.sigma_data": 0.75}
EDM2: Part = {
    **dict.fromkeys(UNET, LEFT_OUT),
    **EDM2_METHOD,
    "sampling.n_steps": 18,
    "model.nf": 32,
    "model.ch_mult": (1, 2),
    "model.num_res_blocks": 1,
    "model.attn_resolutions": (4,),
    "model.num_head_channels": 32,
    "model.dropout": 0.0,
    "optim.lr": 0.04,  # as published, it falls with the root of nf
    "optim.decay_start": 200,
}
VP = (EDM, {"training.sde": "vpsde", "training.n_iters": 1400})
SEEING: Part = {"model.label_dropout": 0.1}
VE: Part = {
    "training.sde": "vesde",
    "model.embedding_type": "fourier",
    "model.scale_by_sigma": True,
    "model.sigma_max": 10.0,
}
LONG: Part = {
    "training.n_iters": 25_000,
    "training.snapshot_freq": 5000,
    "model.dropout": 0.1,
    "model.ema_rate": 0.9995,
    "optim.lr": 1e-3,
}
VDM: Part = {
    "training.sde": "log_linear",
    "objective.name": "vdm",
    "data.uniform_dequantization": False,
    "eval.enable_bound": True,
    "eval.accuracy": 0.01,  # the density near the grey levels takes many evaluations
    "model.learned_schedule": True,
    "model.gamma_min": -8.0,  # least noise: 1/7 of a grey level
    "model.gamma_max": 6.0,
    "model.fourier_features": (3, 4),  # periods of two steps and one step between grey levels
    "model.parametrization": "v",
}
CAPTIONS: Part = {
    "model.text": "bytes",
    "model.text_length": 8,
    "model.text_width": 32,
    "model.text_depth": 1,
    "model.label_confidence": True,
    "data.conditions": "captions.jsonl",
}
LSGM: Part = {
    **JOINT,
    "latent.name": "lsgm",
    "latent.nf": 32,
    "latent.ch_mult": (1, 2),
    "latent.num_res_blocks": 1,
    "data.uniform_dequantization": False,  # the decoder gives probabilities of grey levels
    "sampling.method": "edm",
    "sampling.n_steps": 18,
}
INDM: Part = {
    **LSGM,
    **dict.fromkeys(("latent.ch_mult", "latent.num_res_blocks"), LEFT_OUT),
    "latent.name": "indm",
    "latent.num_layers": 4,
    "training.sde": "vpsde",
    "training.importance_sampling": True,
    "data.uniform_dequantization": True,
}
CONSISTENCY: Part = {  # distillation in minutes, of emoji too
    "weighting.name": LEFT_OUT,  # the objective has its own
    "objective.name": "consistency",
    "objective.stage_steps": 100,
    "objective.first_stage": 2,
    "objective.last_stage": 5,
    "noise_density.mean": -0.8,
    "noise_density.std": 1.6,
    "training.n_iters": 900,
    "optim.lr": 1e-3,
    "optim.schedule": "inverse_sqrt",
    "optim.decay_start": 200,
    "sampling.method": "consistency",
    "sampling.n_steps": 1,
    "eval.enable_bpd": False,  # it has no score
}
TAUGHT: Part = {"training.init_from": "runs/digits-edm", "objective.teacher": "runs/digits-edm"}
MEAN_FLOW: Part = {
    **dict.fromkeys(("weighting.name", "model.sigma_data"), LEFT_OUT),
    "training.sde": "flow",
    "objective.name": "mean_flow",
    "objective.interval_share": 0.5,
    "noise_density.mean": -0.4,
    "noise_density.std": 1.6,  # times near 0 and 1, where one step is made, are trained too
    "model.parametrization": "velocity",
    "model.label_scale": 0.004,  # labels up to 4, in which the network is smooth
    "sampling.method": "mean_flow",
    "sampling.n_steps": 1,
}
FLOW: Part = {
    "training.sde": "flow",
    "weighting.name": "velocity",
    "model.parametrization": "velocity",
    "sampling.method": "dpmpp_2m",
    "sampling.n_steps": 20,
    "sampling.grid": "ddim",
}
BRIDGE: Part = {
    "training.sde": "brownian",
    "objective.bridge": True,
    "noise_density.name": "uniform",
    "sampling.method": "dpmpp_2m_sde",
    "sampling.n_steps": 40,
    "sampling.grid": "log_snr",
    "training.n_iters": 1400,
    "eval.enable_bpd": False,
}
COUPLED: Part = {"coupling.name": "assignment", "coupling.group": 64}
VLB: Part = {
    "training.continuous": False,
    "objective.name": "hybrid",
    "model.learned_variance": True,
    "sampling.method": "ddpm",
    "sampling.n_steps": 300,
    "sampling.variance": "learned",
    "eval.enable_bound": True,
}
CLASSIFIER: Part = {
    **dict.fromkeys((*UNET, "model.log_labels"), LEFT_OUT),
    "model.name": "wideresnet",
    "model.blocks_per_group": 1,
    "model.channel_multiplier": 2,
    "training.n_iters": 1500,
}
LOG_UNIFORM: Part = {"noise_density.name": "log_uniform"}
DISCRIMINATOR: Part = {
    "model.name": "discriminator",
    "model.encoder": "ncsnpp",
    "model.pretrained": "runs/digits-edm",
    "data.generated": "runs/digits-edm/generated.npz",
    "training.n_iters": 4000,
}
VARIANTS: dict[str, tuple[Part, ...]] = {
    "vp": VP,
    "vp_score_sde": (LIKELIHOOD,),
    "ve": (LIKELIHOOD, VE),
    "subvp": (LIKELIHOOD, {"training.sde": "subvpsde"}),
    "long": (LIKELIHOOD, LONG),
    "edm": (EDM,),
    "edm2": (EDM, EDM2),
    "consistency": (EDM, CONSISTENCY, TAUGHT),
    "meanflow": (EDM, MEAN_FLOW),
    "vdm": (VDM,),
    "vdm_fixed": (VDM, {"model.learned_schedule": False}),
    "flow": (FLOW,),
    "coupled": (FLOW, COUPLED),
    "vlb": (VLB,),
    "lsgm": (LSGM,),
    "indm": (INDM,),
    "enlarge": (*VP, SEEING, {"image_condition.name": "low_res"}),
    "enlarge_bridge": (
        EDM,
        BRIDGE,
        {"image_condition.name": "low_res", "source.name": "image"},
    ),
    "complete": (
        *VP,
        SEEING,
        {"image_condition.name": "masked", "image_condition.mask": "left"},
    ),
    "captions": (*VP, SEEING, CAPTIONS),
    "classifier": (LIKELIHOOD, CLASSIFIER),
    "edm_classifier": (EDM, CLASSIFIER, LOG_UNIFORM),
    "discriminator": (EDM, LOG_UNIFORM, DISCRIMINATOR),
}


def get_config(variant: str = "vp") -> default.Config:
    """The config of a variant in the table above."""
    return default.experiment(BASE, VARIANTS, variant)
