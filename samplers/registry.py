"""Registry of the samplers by name."""

from typing import Any

from samplers.annealed_langevin import AnnealedLangevin
from samplers.dpm_2 import DPM2
from samplers.dpm_2_ancestral import DPM2Ancestral
from samplers.dpm_adaptive import DPMAdaptive
from samplers.dpm_solver import DPMFast, DPMSolver
from samplers.dpmpp import DPMpp2M, DPMpp2S
from samplers.dpmpp_multistep_sde import DPMpp2MSDE, DPMpp3MSDE
from samplers.dpmpp_sde import DPMpp2SAncestral, DPMppSDE
from samplers.edm import EDM, Heun
from samplers.euler import DDIM, DDPM, Euler, EulerAncestral, FreshNoise
from samplers.euler_maruyama import EulerMaruyama
from samplers.few_steps.consistency import Consistency
from samplers.few_steps.mean_flow import MeanFlow
from samplers.free_diffusion import FreeDiffusion
from samplers.lms import DEIS, LMS, LMSAncestral
from samplers.predictor_corrector import PredictorCorrector
from samplers.probability_flow import ProbabilityFlow
from samplers.solver import NoiseLevelSolver
from samplers.stochastic_runge_kutta import AdaptiveSDE, StochasticRungeKutta
from samplers.symmetric_splitting import SymmetricSplitting
from samplers.unipc import UniPC
from sde_lib.checks import create_by_name

Sampler = (
    AdaptiveSDE
    | AnnealedLangevin
    | DPMAdaptive
    | EulerMaruyama
    | MeanFlow
    | NoiseLevelSolver
    | PredictorCorrector
    | ProbabilityFlow
    | StochasticRungeKutta
    | SymmetricSplitting
)

SAMPLERS: dict[str, Any] = {
    "adaptive_sde": AdaptiveSDE,
    "annealed_langevin": AnnealedLangevin,
    "consistency": Consistency,
    "ddim": DDIM,
    "ddpm": DDPM,
    "deis": DEIS,
    "dpm_2": DPM2,
    "dpm_2_ancestral": DPM2Ancestral,
    "dpm_adaptive": DPMAdaptive,
    "dpm_fast": DPMFast,
    "dpm_solver": DPMSolver,
    "dpmpp_2m": DPMpp2M,
    "dpmpp_2m_sde": DPMpp2MSDE,
    "dpmpp_2s": DPMpp2S,
    "dpmpp_2s_ancestral": DPMpp2SAncestral,
    "dpmpp_3m_sde": DPMpp3MSDE,
    "dpmpp_sde": DPMppSDE,
    "edm": EDM,
    "euler": Euler,
    "euler_ancestral": EulerAncestral,
    "euler_maruyama": EulerMaruyama,
    "free_diffusion": FreeDiffusion,
    "fresh_noise": FreshNoise,
    "heun": Heun,
    "lms": LMS,
    "lms_ancestral": LMSAncestral,
    "mean_flow": MeanFlow,
    "predictor_corrector": PredictorCorrector,
    "probability_flow": ProbabilityFlow,
    "stochastic_runge_kutta": StochasticRungeKutta,
    "symmetric_splitting": SymmetricSplitting,
    "unipc": UniPC,
}


FEW_STEPS = ("consistency", "mean_flow")
"""Samplers of models that are trained for them."""


def create(name: str, **options) -> Sampler:
    """Makes the sampler `name` in SAMPLERS. The options are its fields.

    Raises:
        ValueError: an unknown name or option, or a value out of range.
    """
    return create_by_name("sampler", SAMPLERS, name, options)
