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

The sampler was chosen on a trained model of moons. The sliced Wasserstein distance of 2,000 samples
to the test set is 0.025 with 20 evaluations of dpmpp_3m_sde, 0.038 of unipc, 0.044 with 35 of Heun,
and 0.057 with 500 steps of reverse diffusion. Samples by a fine solution of the flow have 0.031.
"""

from configs import default
from configs.default import Part

BASE: Part = {
    "training.n_iters": 10_000,
    "training.batch_size": 512,
    "training.log_freq": 100,
    "training.snapshot_freq": 5_000,
    "training.snapshot_freq_for_preemption": 2_500,
    "training.eval_freq": 2_500,
    "objective.stratified": True,
    "sampling.n_samples": 4096,
    "sampling.batch_size": 4096,
    "sampling.method": "dpmpp_3m_sde",
    "sampling.n_steps": 20,
    "eval.batch_size": 2048,
    "eval.probe": "exact",
    "eval.num_samples": 20_000,
    "eval.rtol": 1e-4,
    "eval.atol": 1e-4,
    "model.name": "mlp",
    "model.num_res_blocks": 3,
    "model.fourier_scale": 1.0,
    "model.ema_rate": 0.999,
    "optim.lr": 1e-3,
    "optim.warmup": 100,
}
MIXTURE: Part = {"data.dataset": "mixture"}
LATENT: Part = {
    "objective.name": "cross_entropy",
    "training.sde": "geometric_vp",
    "model.parametrization": "v",
}
LSGM: Part = {"latent.name": "lsgm", "latent.nf": 64, "latent.num_res_blocks": 1}
INDM: Part = {"latent.name": "indm", "latent.nf": 16, "latent.num_layers": 2}
FLOW: Part = {
    "training.sde": "flow",
    "model.parametrization": "velocity",
    "weighting.name": "velocity",
    "sampling.method": "dpmpp_2m",
    "sampling.n_steps": 20,
    "sampling.grid": "ddim",
}
COUPLED: Part = {"coupling.name": "assignment", "coupling.group": 64}
FROM_MOONS: Part = {
    "source.name": "samples",
    "source.dataset": "moons",
    "eval.enable_bpd": False,
}
BRIDGE: Part = {
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
CONSISTENCY: Part = {
    "training.sde": "edm",
    "objective.name": "consistency",
    "objective.stage_steps": 1600,
    "objective.last_stage": 4,
    "noise_density.name": "log_normal",
    "noise_density.mean": 0.5,
    "noise_density.std": 2.0,
    "sampling.method": "consistency",
    "sampling.n_steps": 1,
    "model.parametrization": "edm",
    "model.sigma_data": 1.0,
    "eval.enable_bpd": False,
}
MEANFLOW: Part = {
    "training.sde": "flow",
    "objective.name": "mean_flow",
    "noise_density.name": "log_normal",
    "noise_density.mean": -0.4,
    "noise_density.std": 1.6,
    "sampling.method": "mean_flow",
    "sampling.n_steps": 1,
    "model.parametrization": "velocity",
}
VARIANTS: dict[str, tuple[Part, ...]] = {
    **{name: ({"data.dataset": name},) for name in ("swiss_roll", "moons", "checkerboard")},
    "mixture": (MIXTURE,),
    "lsgm": (MIXTURE, LATENT, LSGM),
    "indm": (MIXTURE, LATENT, INDM),
    "flow": (MIXTURE, FLOW),
    "coupled": (MIXTURE, FLOW, COUPLED),
    "from_moons": (MIXTURE, FLOW, COUPLED, FROM_MOONS),
    "bridge": (MIXTURE, BRIDGE, FROM_MOONS),
    "consistency": (MIXTURE, CONSISTENCY),
    "meanflow": (MIXTURE, MEANFLOW),
}


def get_config(variant: str = "swiss_roll") -> default.Config:
    """The config of a variant, which names its data set or its method on the mixture."""
    return default.experiment(BASE, VARIANTS, variant)
