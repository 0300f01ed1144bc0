"""The amount of noise that a sampler adds, for models whose score is right with one amount alone.

With couplings score_fn gives the flow (eta = 0), but is not the gradient of log p_t, which the
noise of other samplers needs; with bridges it gives the reverse SDE (eta = 1) alone
(sde_lib.transport).
"""

from typing import Any

from samplers.annealed_langevin import AnnealedLangevin
from samplers.dpm_adaptive import DPMAdaptive
from samplers.euler import DDPM, FreshNoise
from samplers.euler_maruyama import EulerMaruyama
from samplers.free_diffusion import FreeDiffusion
from samplers.predictor_corrector import PredictorCorrector
from samplers.probability_flow import ProbabilityFlow
from samplers.solver import NoiseLevelSolver
from samplers.symmetric_splitting import SymmetricSplitting

NAMES = {0.0: "the probability flow (eta = 0)", 1.0: "the reverse SDE (eta = 1)"}


def eta(sampler: Any) -> float | None:
    """The eta of the equation that a sampler solves: 0 is the flow, 1 the reverse SDE.

    None: another one, such as Langevin steps, churn, or a sampler that this module does not know.
    """
    if isinstance(sampler, FreeDiffusion):
        return None if sampler.eta else 0.0
    if hasattr(sampler, "eta"):
        return sampler.eta
    if isinstance(sampler, PredictorCorrector):
        corrects = sampler.corrector != "none" or sampler.predictor == "none"
        return None if corrects else 0.0 if sampler.probability_flow else 1.0
    if isinstance(sampler, FreshNoise | AnnealedLangevin | SymmetricSplitting):
        return None
    if isinstance(sampler, DDPM | EulerMaruyama):
        return 1.0
    if isinstance(sampler, ProbabilityFlow | DPMAdaptive | NoiseLevelSolver):
        return None if getattr(sampler, "s_churn", 0.0) else 0.0
    return None


def check_eta(sampler: Any, only: float | None, why: str) -> None:
    """Raises ValueError unless a sampler's eta is `only`; None allows any. `why` says the cause."""
    if only is None or eta(sampler) == only:
        return
    samples = {0.0: "'heun', 'edm', 'dpmpp_2m' or 'probability_flow'"}
    instead = samples.get(only, "'euler_maruyama', or 'dpmpp_2m_sde' with config.sampling.eta=1")
    raise ValueError(
        f"{type(sampler).__name__} does not sample by {NAMES[only]}, the only equation for "
        f"{why}: set config.sampling.method to {instead}, without churn and correctors"
    )
