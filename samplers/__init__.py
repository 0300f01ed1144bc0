"""Samplers: frozen dataclasses, called as sampler(key, sde, score_fn, shape)."""

from samplers.base import Samples
from samplers.euler_maruyama import EulerMaruyama
from samplers.predictor_corrector import CORRECTORS, PREDICTORS, PredictorCorrector
from samplers.probability_flow import ProbabilityFlow
from samplers.registry import SAMPLERS, create

__all__ = [
    "CORRECTORS",
    "PREDICTORS",
    "SAMPLERS",
    "EulerMaruyama",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Samples",
    "create",
]
