"""Score-based generative modelling: forward SDEs, training objectives, likelihoods and bounds."""

from sde_lib import analytic_variance, missing, noise_density, transport, variational, weighting
from sde_lib.analytic_variance import AnalyticVariance
from sde_lib.chains import chain
from sde_lib.change import change_sde
from sde_lib.cld import CLD
from sde_lib.cross_entropy import cross_entropy, cross_entropy_loss
from sde_lib.families import VE, VP, SubVP
from sde_lib.few_steps import Curriculum, MeanFlow, consistency_loss, mean_flow_loss
from sde_lib.gaussian_field import GaussianField
from sde_lib.geometric_vp import GeometricVP
from sde_lib.likelihood import LogLikelihood, bits_per_dim, log_likelihood
from sde_lib.losses import denoising_score_matching, perturb
from sde_lib.mixture import GaussianMixture
from sde_lib.schedules import EDM, Cosine, Linear, LinearFlow, LogLinear, Sigmoid
from sde_lib.score_matching import explicit_score_matching, sliced_score_matching
from sde_lib.sde import (
    SDE,
    ScoreAndEnergy,
    ScoreAndVariance,
    ScoreFn,
    ScorePair,
    check_score_fn,
)
from sde_lib.solve import solve_ode
from sde_lib.table import Table, from_betas
from sde_lib.variational import variational_bound, variational_loss
from sde_lib.vdm import continuous_bound, diffusion_loss, encode_grey_levels

__all__ = [
    "CLD",
    "EDM",
    "SDE",
    "VE",
    "VP",
    "AnalyticVariance",
    "Cosine",
    "Curriculum",
    "GaussianField",
    "GaussianMixture",
    "GeometricVP",
    "Linear",
    "LinearFlow",
    "LogLikelihood",
    "LogLinear",
    "MeanFlow",
    "ScoreAndEnergy",
    "ScoreAndVariance",
    "ScoreFn",
    "ScorePair",
    "Sigmoid",
    "SubVP",
    "Table",
    "analytic_variance",
    "bits_per_dim",
    "chain",
    "change_sde",
    "check_score_fn",
    "consistency_loss",
    "continuous_bound",
    "cross_entropy",
    "cross_entropy_loss",
    "denoising_score_matching",
    "diffusion_loss",
    "encode_grey_levels",
    "explicit_score_matching",
    "from_betas",
    "log_likelihood",
    "mean_flow_loss",
    "missing",
    "noise_density",
    "perturb",
    "sliced_score_matching",
    "solve_ode",
    "transport",
    "variational",
    "variational_bound",
    "variational_loss",
    "weighting",
]
