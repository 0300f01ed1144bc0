"""Samplers: frozen dataclasses, called as sampler(key, sde, score_fn, shape)."""

from samplers import editing, guidance, measurement
from samplers.annealed_langevin import AnnealedLangevin
from samplers.base import Samples, Start
from samplers.edm import EDM, Heun
from samplers.euler import DDIM, DDPM, Euler, EulerAncestral
from samplers.euler_maruyama import EulerMaruyama
from samplers.predictor_corrector import CORRECTORS, PREDICTORS, PredictorCorrector
from samplers.probability_flow import ProbabilityFlow
from samplers.registry import SAMPLERS, create

__all__ = [
    "CORRECTORS",
    "DDIM",
    "DDPM",
    "EDM",
    "PREDICTORS",
    "SAMPLERS",
    "AnnealedLangevin",
    "Euler",
    "EulerAncestral",
    "EulerMaruyama",
    "Heun",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Samples",
    "Start",
    "create",
    "editing",
    "guidance",
    "measurement",
]
