"""Parts of published experiments that train by a bound of the likelihood, or on another SDE.

Improved DDPM (Nichol and Dhariwal 2021), VDM (Kingma et al. 2021), Soft Truncation (Kim et al.
2022) and CLD-SGM (Dockhorn et al. 2022). Their numbers are those of the papers' repositories.
"""

from configs.default import LEFT_OUT, Part
from configs.published import DEEP, FOURIER, NCSNPP, VP

IDDPM: Part = {  # by L_hybrid
    "training.sde": "chain",
    "training.continuous": False,
    "objective.name": "hybrid",
    "sampling.predictor": LEFT_OUT,
    "sampling.corrector": LEFT_OUT,
    "sampling.method": "ddpm",
    "sampling.variance": "learned",
    "sampling.n_steps": 4000,
    "guidance.clip.limit": 1.0,
    "data.random_flip": False,
    "model.name": "adm",
    "model.parametrization": "epsilon",
    "model.learned_variance": True,
    "model.beta_schedule": "cosine",
    "model.num_scales": 4000,
    "model.label_scale": 0.25,
    "model.nf": 128,
    "model.num_res_blocks": 3,
    "model.attn_resolutions": (16, 8),
    "model.heads": 4,
    "model.resblock_updown": False,
    "model.group_size": 1,
    "optim.lr": 1e-4,
    "optim.warmup": 0,
    "optim.grad_clip": -1.0,
}
IDDPM_VLB: Part = {"objective.name": "vlb", "objective.loss_history": 10}
VDM: Part = {
    "training.sde": "log_linear",
    "training.n_iters": 10_000_000,
    "objective.name": "vdm",
    "objective.stratified": True,
    "sampling.predictor": "ancestral_sampling",
    "eval.enable_bound": True,
    "data.random_flip": False,
    "model.name": "ncsnpp",
    "model.parametrization": "epsilon",
    "model.learned_schedule": True,
    "model.fourier_features": (7, 8),
    "model.embedding_type": "positional",
    "model.scale_by_sigma": False,
    "model.ch_mult": (1,),
    "model.num_res_blocks": 32,
    "model.attn_resolutions": (),
    "model.resblock_type": "ddpm",
    "model.skip_rescale": False,
    "model.progressive_input": "none",
    "optim.beta2": 0.99,
    "optim.weight_decay": 0.01,
    "optim.warmup": 100,
    "optim.grad_clip": -1.0,
}
SOFT_TRUNCATION: Part = {  # with the likelihood weighting
    "training.likelihood_weighting": True,
    "training.importance_sampling": True,
    "objective.soft_truncation": 1.0,
    "sampling.predictor": LEFT_OUT,
    "sampling.corrector": LEFT_OUT,
    "sampling.method": "probability_flow",
}
CLD: Part = {
    **VP,
    **NCSNPP,
    **FOURIER,
    **DEEP,
    "training.sde": "cld",
    "training.n_iters": 800_000,
    "training.reduce_mean": False,
    "sampling.predictor": LEFT_OUT,
    "sampling.corrector": LEFT_OUT,
    "sampling.method": "symmetric_splitting",
    "sampling.n_steps": 2000,
    "optim.warmup": 100_000,
}
