"""Points in the plane, to study scores, flows and likelihoods in minutes on a CPU.

    python -m experiments.main --config=configs/points.py:moons

Each variant is a data set: swiss_roll, moons, checkerboard or mixture. The last is a mixture of
eight Gaussians on a circle, with known score and density (experiments/data/sources/points.py).
lsgm and indm are of the mixture too, in latents that are trained with the score model. Within 3,000
steps of 512 points, with model.variance_min = 1e-3, their bits/dim come within 0.05 of the exact
ones (tests/experiments/tasks/test_joint.py). A larger flow than this one learns more slowly.

consistency and meanflow are of the mixture as well, and draw it in one step. The sliced Wasserstein
distance of 8,000 samples to the data is 0.12 and 0.15 after 5,000 steps with model.nf = 64; that of
data to data is 0.03. A score model trained likewise has 0.48 at four steps of dpmpp_2m.

flow and coupled are of the mixture by flow matching, with independent noise and with the noise of
the least distance in each group of 64. from_moons is the coupled flow from the moons to the
mixture, and bridge the Schroedinger bridge between the same two (docs/howto/couplings.md).
"""

from configs import default

DATA_SETS = ("swiss_roll", "moons", "checkerboard", "mixture")
LATENT = ("lsgm", "indm")
FLOW: default.Part = {
    "training.sde": "flow",
    "model.parametrization": "velocity",
    "weighting.name": "velocity",
    "sampling.method": "dpmpp_2m",
    "sampling.n_steps": 20,
    "sampling.grid": "ddim",
}
COUPLED: default.Part = {"coupling.name": "assignment", "coupling.group": 64}
FROM_MOONS: default.Part = {
    "source.name": "samples",
    "source.dataset": "moons",
    "eval.enable_bpd": False,
}
BRIDGE: default.Part = {
    "training.sde": "brownian",
    "objective.bridge": True,
    "coupling.name": "sinkhorn",
    "coupling.group": 128,
    "model.parametrization": "edm",
    "model.sigma_data": 1.4,
    "weighting.name": "edm",
    "sampling.method": "dpmpp_2m_sde",
    "sampling.grid": "log_snr",
    "sampling.n_steps": 40,
}
FLOWS = {
    "flow": (FLOW,),
    "coupled": (FLOW, COUPLED),
    "from_moons": (FLOW, COUPLED, FROM_MOONS),
    "bridge": (BRIDGE, FROM_MOONS),
}
FEW_STEPS = {"consistency": "edm", "meanflow": "flow"}
"""SDEs of the variants that sample in few steps."""
VARIANTS = (*DATA_SETS, *LATENT, *FLOWS, *FEW_STEPS)


def get_config(variant: str = "swiss_roll") -> default.Config:
    """The config of a variant, which names its data set, its latents or its flow."""
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    config.data.dataset = variant if variant in DATA_SETS else "mixture"
    if variant in LATENT:
        config.latent.name = variant
        config.objective.name = "cross_entropy"
        config.training.sde = "geometric_vp"
        config.latent.nf = 64 if variant == "lsgm" else 16
        config.model.parametrization = "v"
    if variant == "lsgm":
        config.latent.num_res_blocks = 1
    if variant == "indm":
        config.latent.num_layers = 2

    training = config.training
    training.n_iters = 10_000
    training.batch_size = 512
    training.log_freq = 100
    training.snapshot_freq = 5_000
    training.snapshot_freq_for_preemption = 2_500
    training.eval_freq = 2_500
    config.objective.stratified = True

    config.sampling.n_samples = 4096
    config.sampling.batch_size = 4096
    config.sampling.n_steps = 500
    config.eval.batch_size = 2048
    config.eval.probe = "exact"
    config.eval.num_samples = 20_000
    config.eval.rtol = config.eval.atol = 1e-4

    config.model.name = "mlp"
    config.model.num_res_blocks = 3
    config.model.fourier_scale = 1.0
    config.model.ema_rate = 0.999
    config.optim.lr = 1e-3
    config.optim.warmup = 100
    if variant in FEW_STEPS:
        training.sde = FEW_STEPS[variant]
        config.objective.name = config.sampling.method = variant.replace("meanf", "mean_f")
        config.sampling.n_steps = 1
        config.noise_density.name = "log_normal"
        config.noise_density.mean, config.noise_density.std = -0.4, 1.6
    if variant == "consistency":
        config.noise_density.mean, config.noise_density.std = 0.5, 2.0
        config.objective.stage_steps, config.objective.last_stage = 1600, 4
        config.model.parametrization, config.model.sigma_data = "edm", 1.0
        config.eval.enable_bpd = False
    if variant == "meanflow":
        config.model.parametrization = "velocity"
    for part in FLOWS.get(variant, ()):
        config.update_from_flattened_dict(part)
    return config
