"""Samplers: frozen dataclasses that are called as sampler(key, sde, score_fn, shape)."""

from samplers import editing, guidance, measurement, posterior, strength, windows
from samplers.annealed_langevin import AnnealedLangevin
from samplers.base import Samples, Scores, Start
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
from samplers.predictor_corrector import CORRECTORS, PREDICTORS, PredictorCorrector
from samplers.probability_flow import ProbabilityFlow
from samplers.registry import FEW_STEPS, SAMPLERS, create
from samplers.stochastic_runge_kutta import AdaptiveSDE, StochasticRungeKutta
from samplers.symmetric_splitting import SymmetricSplitting
from samplers.unipc import UniPC

__all__ = [
    "CORRECTORS",
    "DDIM",
    "DDPM",
    "DEIS",
    "DPM2",
    "EDM",
    "FEW_STEPS",
    "LMS",
    "PREDICTORS",
    "SAMPLERS",
    "AdaptiveSDE",
    "AnnealedLangevin",
    "Consistency",
    "DPM2Ancestral",
    "DPMAdaptive",
    "DPMFast",
    "DPMSolver",
    "DPMpp2M",
    "DPMpp2MSDE",
    "DPMpp2S",
    "DPMpp2SAncestral",
    "DPMpp3MSDE",
    "DPMppSDE",
    "Euler",
    "EulerAncestral",
    "EulerMaruyama",
    "FreeDiffusion",
    "FreshNoise",
    "Heun",
    "LMSAncestral",
    "MeanFlow",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Samples",
    "Scores",
    "Start",
    "StochasticRungeKutta",
    "SymmetricSplitting",
    "UniPC",
    "create",
    "editing",
    "guidance",
    "measurement",
    "posterior",
    "strength",
    "windows",
]
