"""Emoji, 4,495 colour pictures of 32 x 32 pixels (OpenMoji, CC BY-SA 4.0), on white.

    pip install -e '.[emoji]'
    python -m experiments.main --config=configs/emoji.py

| variant          | description                              | parameters |
| ---------------- | ---------------------------------------- | ---------- |
| vp               | the default: a small DDPM++, VP          | 6,989,891  |
| ve               | a small NCSN++, VE                       | 7,081,987  |
| edm              | a smaller DDPM++, EDM                    | 1,260,547  |
| autoencoder      | KL, latents of 8 x 8 x 4                 | 644,507    |
| latent           | latent diffusion: a small DDPM++, EDM    | 2,853,124  |
| dit              | latent diffusion: a DiT, EDM             | 7,372,560  |
| edm2             | latent diffusion: a small EDM2           | 2,692,683  |
| consistency      | latent, distilled to a consistency model | 2,853,124  |
| text             | latent, conditioned on the emoji's names | 3,718,404  |
| text_confidence  | text, with the confidence in each name   | 3,722,500  |
| lsgm             | LSGM, latents of 8 x 8 x 4               | 3,498,322  |
| small            | edm at 16 x 16 pixels                    | 1,260,547  |
| super_resolution | edm, conditioned on 16 x 16 pixels       | 1,262,435  |

latent, dit, edm2 and text model the latents of autoencoder. Train it first, and latent before
consistency:

    main="python -m experiments.main --config=configs/emoji.py"
    $main:autoencoder
    $main:latent
    $main:consistency
    $main:dit
    $main:edm2
    $main:text
    $main:text --mode=sample --prompt="woman light skin tone, people"

autoencoder reconstructs the test set with 24.3 dB PSNR, KL 594 nats. Fréchet distance
(random_conv_v1) of 1,000 samples to the training data: latent 0.120, dit 0.169, text 0.104 (with
the test set's captions, without guidance). People, couples, faces and flags can be recognised in
the samples, objects often not. text draws the flags and faces of its prompts most of the time.
docs/howto/few_steps.md compares latent with consistency, and the samplers of latent.

Processor time of training, summed over cores: autoencoder 9 minutes, latent 13, dit 27, text 31. A
step takes 0.13 seconds (latent) to 0.32 (text) on two idle cores.

small and super_resolution form a cascade (experiments/pipeline/cascade.py):

    $main:small
    $main:super_resolution
    $main:super_resolution --mode=sample --config.sampling.low_res=runs/emoji-small

super_resolution is trained on 2 x 2 means of the pictures at 32 x 32. In [-1, 1], these differ by
0.07 (RMS) from pictures rendered at 16 x 16, so samples are drawn with low_res_noise = 0.1.

The pictures are rendered at the first start, in seven seconds. A tenth of the emoji is the test
set, each with all of its skin tones. The labels are eight groups of emoji
(experiments/data/sources/emoji.py).
lsgm bounds the test set's bits/dim by 2.398 +- 0.033 and has a distance of 0.277, after 3,000 steps
in 30 minutes of processor time.

Runs of vp, ve, edm, edm2, small and super_resolution have not been measured. vp and ve
need a GPU: a step of vp took 80 seconds and more on two busy CPU cores. A step of edm took 1.5
seconds there, after a minute of compilation.
"""

from configs import default
from configs.default import LEFT_OUT, Part
from configs.digits import CONSISTENCY
from configs.published import EDM2_METHOD, EDM_METHOD, JOINT

UNET: Part = {
    "model.nf": 64,
    "model.ch_mult": (1, 2, 2),
    "model.num_res_blocks": 2,
    "model.attn_resolutions": (16,),
    "model.resblock_type": "biggan",
    "model.skip_rescale": True,
    "model.init_scale": 0.0,
    "model.dropout": 0.1,
}
BASE: Part = {
    **UNET,
    "data.dataset": "emoji",
    "training.n_iters": 50_000,
    "training.snapshot_freq": 5000,
    "training.snapshot_freq_for_preemption": 1000,
    "training.eval_freq": 1000,
    "eval.rtol": 1e-3,
    "eval.atol": 1e-3,
    "model.ema_rate": 0.999,
    "optim.warmup": 1000,
}
DDPMPP: Part = {
    "model.embedding_type": "positional",
    "model.progressive_input": "none",
    "model.fir": False,
}
VP: Part = {
    **DDPMPP,
    "training.likelihood_weighting": True,
    "training.importance_sampling": True,
    "objective.stratified": True,
    "model.scale_by_sigma": False,
}
VE: Part = {
    "training.sde": "vesde",
    "data.centered": False,
    "sampling.corrector": "langevin",
    "model.embedding_type": "fourier",
    "model.fourier_scale": 16.0,
    "model.progressive_input": "residual",
    "model.scale_by_sigma": True,
    "model.fir": True,
}
EDM: Part = {
    **EDM_METHOD,
    **DDPMPP,
    "training.n_iters": 3000,
    "training.batch_size": 32,
    "model.nf": 32,
    "model.num_res_blocks": 1,
    "model.attn_resolutions": (8,),
    "model.dropout": 0.0,
    "optim.lr": 1e-3,
    "optim.warmup": 200,
}
AUTOENCODER: Part = {
    **dict.fromkeys(("model.resblock_type", "model.dropout"), LEFT_OUT),
    "data.uniform_dequantization": False,
    "data.random_flip": True,
    "training.n_iters": 2500,
    "training.batch_size": 16,
    "training.eval_freq": 500,
    "model.name": "autoencoder",
    "model.nf": 16,
    "model.ch_mult": (1, 2, 4),
    "model.num_res_blocks": 1,
    "model.attn_resolutions": (),
    "model.ema_rate": 0.998,
    "autoencoder.kl.weight": 0.03,
    "optim.lr": 2e-3,
    "optim.warmup": 200,
}
LATENT: Part = {
    **EDM,
    "data.autoencoder": "runs/emoji-autoencoder",
    "data.uniform_dequantization": False,
    "noise_density.mean": 0.0,
    "eval.num_samples": 1000,
    "model.sigma_data": 1.0,  # standard deviation of the latents
    "model.nf": 64,
    "model.ch_mult": (1, 2),
    "model.attn_resolutions": (),
}
DIT: Part = {
    **dict.fromkeys((*UNET, *DDPMPP, "model.log_labels"), LEFT_OUT),
    "model.name": "dit",
    "model.patch_size": 2,
    "model.hidden_size": 256,
    "model.depth": 6,
    "model.num_heads": 4,
    "model.conditioning": "adaln_zero",
}
EDM2: Part = {
    **dict.fromkeys((*UNET, *DDPMPP), LEFT_OUT),
    **EDM2_METHOD,
    "sampling.n_steps": 18,
    "model.nf": 64,
    "model.ch_mult": (1, 2),
    "model.num_res_blocks": 1,
    "model.attn_resolutions": (),
    "optim.lr": 0.017,
    "optim.decay_start": 400,
}
TEXT: Part = {
    "model.text": "bytes",
    "model.text_length": 96,
    "model.attn_resolutions": (8, 4),
    "model.label_dropout": 0.1,
    "guidance.classifier_free.weight": 3.0,
}
TAUGHT: Part = {
    "training.init_from": "runs/emoji-latent",
    "objective.teacher": "runs/emoji-latent",
}
CONFIDENCE: Part = {
    "model.label_confidence": True,
    "data.conditions": "emoji-captions.jsonl",  # captions with confidences, for all emoji
}
LSGM: Part = {
    **EDM,
    **dict.fromkeys(("noise_density.name", "weighting.name"), LEFT_OUT),
    **JOINT,
    "latent.name": "lsgm",
    "latent.nf": 16,
    "latent.ch_mult": (1, 2, 4),
    "latent.num_res_blocks": 1,
    "data.uniform_dequantization": False,
    "eval.num_samples": 1000,
    "model.nf": 64,
    "model.ch_mult": (1, 2),
    "model.attn_resolutions": (),
}
SUPER_RESOLUTION: Part = {
    "training.n_iters": 1500,
    "model.low_res_size": 16,
    "model.low_res_noise": 0.2,
    "sampling.low_res_noise": 0.1,
}
VARIANTS: dict[str, tuple[Part, ...]] = {
    "vp": (VP,),
    "ve": (VE,),
    "edm": (EDM,),
    "autoencoder": (AUTOENCODER,),
    "latent": (LATENT, {"sampling.method": "dpmpp_2m"}),
    "dit": (LATENT, DIT),
    "edm2": (LATENT, EDM2),
    "consistency": (LATENT, CONSISTENCY, TAUGHT),
    "text": (LATENT, TEXT),
    "text_confidence": (LATENT, TEXT, CONFIDENCE),
    "lsgm": (LSGM,),
    "small": (EDM, {"data.image_size": 16}),
    "super_resolution": (EDM, SUPER_RESOLUTION),
}


def get_config(variant: str = "vp") -> default.Config:
    """The config of a variant in the table above."""
    return default.experiment(BASE, VARIANTS, variant)
