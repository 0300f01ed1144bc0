"""The choices of a config: which options each component has, and the fields that hold them.

A component is chosen by name, such as config.sampling.method. An option of another one is refused
(build/fields/sections.py).
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import models
import samplers
import sde_lib
from experiments.build.fields import sections
from experiments.build.fields.sections import Choice, options_of
from experiments.pipeline.edit.tasks import TASKS
from experiments.training.schedules import SCHEDULES
from models.operators import OPERATORS
from samplers import guidance_schedules
from samplers.guidance import FORMS
from samplers.posterior import METHODS
from samplers.predictor_corrector import correctors
from sde_lib.chains import SCHEDULES as BETA_SCHEDULES
from sde_lib.transport import COUPLINGS

PRECISION = ("eval.accuracy",), ("eval.rtol", "eval.atol")
"""Fields of which one group takes the place of the other."""
CHAIN_FIELDS = {
    "schedule": "model.beta_schedule",
    "zero_terminal_snr": "model.zero_terminal_snr",
    **{name: f"model.{name}" for name in ("beta_start", "beta_end", "betas")},
}
BROWNIAN_FIELDS = {"scale": "model.brownian_scale"}
CLD_FIELDS = {"beta": "model.cld_beta", "mass": "model.cld_mass", "gamma": "model.cld_gamma"}
SDES: Mapping[str, tuple[Any, sections.Options]] = {
    name: (sde, {option: f"model.{option}" for option in options})
    for name, sde, options in (
        ("vesde", sde_lib.VE, ("sigma_min", "sigma_max")),
        ("vpsde", sde_lib.VP, ("beta_min", "beta_max")),
        ("subvpsde", sde_lib.SubVP, ("beta_min", "beta_max")),
        ("edm", sde_lib.EDM, ()),
        ("cosine", sde_lib.Cosine, ()),
        ("sigmoid", sde_lib.Sigmoid, ()),
        ("linear", sde_lib.Linear, ()),
        ("flow", sde_lib.LinearFlow, ()),
        ("log_linear", sde_lib.LogLinear, ("gamma_min", "gamma_max")),
        ("geometric_vp", sde_lib.GeometricVP, ("variance_min", "variance_max")),
    )
} | {
    "brownian": (sde_lib.transport.Brownian, BROWNIAN_FIELDS),
    "cld": (sde_lib.CLD, CLD_FIELDS),
    "chain": (sde_lib.chain, CHAIN_FIELDS),
}
DISCRETISED = ("vpsde", "cosine", "sigmoid", "linear", "log_linear")
"""SDEs whose discrete training is that of DDPM's chain."""
SDE = Choice("training.sde", {name: fields for name, (_, fields) in SDES.items()})
BETAS = Choice(
    "model.beta_schedule",
    {
        name: {
            option: CHAIN_FIELDS[option]
            for option in list(inspect.signature(schedule).parameters)[1:]
        }
        for name, schedule in BETA_SCHEDULES.items()
    },
    default="linear",
    within=("training.sde", "chain"),
)

SAMPLING_NAMES = {  # fields of config.sampling that are named otherwise than the sampler's
    "denoise": "sampling.noise_removal",
    "n_corrector_steps": "sampling.n_steps_each",
    "n_levels": "sampling.n_steps",
}


class Registered(Mapping[str, sections.Options]):
    """The options of everything in a registry, also of what is registered later.

    Args:
        registry: gives the components by name.
        options: a function from a component's name to its options.
    """

    def __init__(
        self, registry: Callable[[], Mapping[str, Any]], options: Callable[[str], sections.Options]
    ):
        self.registry, self.options = registry, options

    def __getitem__(self, name: str) -> sections.Options:
        return self.options(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.registry())

    def __len__(self) -> int:
        return len(self.registry())


def _sampler_options(name: str) -> sections.Options:
    return options_of(samplers.SAMPLERS[name], "sampling", SAMPLING_NAMES)


def _predictor_options(name: str) -> sections.Options:
    deterministic = name not in ("ancestral_sampling", "none")
    return {"probability_flow": "sampling.probability_flow"} if deterministic else {}


def _corrector_options(name: str) -> sections.Options:
    steps = {"snr": "sampling.snr", "n_corrector_steps": "sampling.n_steps_each"}
    return {} if name == "none" else steps


SAMPLER = Choice(
    "sampling.method", Registered(lambda: samplers.SAMPLERS, _sampler_options), renews=True
)
PREDICTOR = Choice(
    "sampling.predictor",
    Registered(lambda: samplers.PREDICTORS, _predictor_options),
    default="reverse_diffusion",
    within=("sampling.method", "predictor_corrector"),
)
CORRECTOR = Choice(
    "sampling.corrector",
    Registered(correctors, _corrector_options),
    default="none",
    within=("sampling.method", "predictor_corrector"),
)
SAMPLING_DEFAULTS = {"denoise": True, "corrector": "none"}
"""Options of samplers whose default in a config is not the sampler's own."""

SHARED = {  # fields of networks that the SDE has too, or that models.create refuses
    *("sigma_min", "sigma_max", "num_scales", "scale_by_sigma", "dtype", "remat"),
    *("learned_variance", "augment_dim", "fourier_features", "label_confidence", "text"),
    *("vector_dim", "attributes"),
}


def _network_options(name: str) -> sections.Options:
    taken = models.options(name)
    if name == "discriminator":
        taken = taken.union(*map(models.options, models.ENCODERS))
    return {option: f"model.{option}" for option in sorted(taken - SHARED)}


def _encoder_options(name: str) -> sections.Options:
    return {**_network_options(name), "dropout": "model.dropout"}


NETWORK = Choice("model.name", Registered(lambda: models.MODELS, _network_options))
ENCODER = Choice(
    "model.encoder",
    Registered(lambda: dict.fromkeys(models.ENCODERS), _encoder_options),
    within=("model.name", "discriminator"),
)

AVERAGE = Choice(
    "model.ema_profile",
    {
        "exponential": {name: f"model.ema_{name}" for name in ("rate", "halflife", "rampup")},
        "power": {"lengths": "model.ema_lengths", "freq": "training.ema_freq"},
    },
)

SCORE_MATCHING = {  # score_sde's names stay in config.training
    **{name: f"training.{name}" for name in ("likelihood_weighting", "importance_sampling")},
    "reduce_mean": "training.reduce_mean",
    "noise_density": "noise_density.name",
    "weighting": "weighting.name",
    **{name: f"objective.{name}" for name in ("stratified", "input_perturbation")},
    "soft_truncation": "objective.soft_truncation",
}
PROJECTIONS = {"n_projections": "objective.n_projections"}
DENSITY = {"noise_density": "noise_density.name", "stratified": "objective.stratified"}
BOUND = {name: f"objective.{name}" for name in ("stratified", "loss_history")}
OBJECTIVE = Choice(
    "objective.name",
    {
        "denoising": SCORE_MATCHING
        | {"log_variance": "objective.log_variance", "coupling": "coupling.name"}
        | {"bridge": "objective.bridge"},
        "explicit": SCORE_MATCHING,
        "sliced": SCORE_MATCHING | PROJECTIONS,
        "sliced_vr": SCORE_MATCHING | PROJECTIONS,
        "cross_entropy": {
            "stratified": "objective.stratified",
            "importance_sampling": "training.importance_sampling",
        },
        "vdm": {"stratified": "objective.stratified"},
        "consistency": {
            name: f"objective.{name}"
            for name in ("teacher", "stage_steps", "first_stage", "last_stage", "huber")
        }
        | DENSITY,
        "mean_flow": {name: f"objective.{name}" for name in ("interval_share", "power")} | DENSITY,
        "hybrid": BOUND | {"vlb_weight": "objective.vlb_weight"},
        "vlb": BOUND,
    },
)
NOISE_DENSITY = Choice(
    "noise_density.name",
    {
        "uniform": {},
        "log_uniform": {},
        "log_uniform_variance": {},
        "log_normal": {"mean": "noise_density.mean", "std": "noise_density.std"},
        "split_log_normal": {n: f"noise_density.{n}" for n in ("mean", "std", "std_above")},
        "log_logistic": {"mean": "noise_density.mean", "std": "noise_density.std"},
        "v_diffusion": {},
        "cosine_interpolated": {},
    },
)
COUPLING = Choice(
    "coupling.name",
    {"": {}, **{name: options_of(made, "coupling") for name, made in COUPLINGS.items()}},
)
SOURCE = Choice(
    "source.name",
    {
        "": {},
        "pairs": {},
        "image": {},
        "reflow": {"path": "source.path"},
        "samples": {name: f"source.{name}" for name in ("dataset", "path")},
    },
)
WEIGHTING = Choice(
    "weighting.name",
    {
        **{name: {} for name in ("variance", "x0", "v", "velocity", "edm", "min_snr")},
        **{name: {} for name in ("soft_min_snr", "truncated_snr")},
        "sigmoid": {"bias": "weighting.bias"},
        "elbo": {"variance": "weighting.variance"},
    },
)
GUIDANCE_SCHEDULE = Choice(
    "guidance.schedule.name",
    {
        name: {
            option: f"guidance.schedule.{option}"
            for option in {*guidance_schedules.REQUIRED.get(name, ()), *guidance_schedules.CHANGES}
        }
        for name in guidance_schedules.SCHEDULES
    },
)
GUIDANCE_FORM = Choice(
    "guidance.form.name",
    Registered(lambda: FORMS, lambda name: options_of(FORMS[name], "guidance.form")),
)
EDIT = Choice(
    "edit.task",
    {name: {option: f"edit.{option}" for option in task.options} for name, task in TASKS.items()},
)
POSTERIOR = Choice(
    "edit.posterior",
    Registered(lambda: METHODS, lambda name: options_of(METHODS[name], "edit")),
    default="moment_matching",
)
REGULARIZATION = Choice(
    "autoencoder.regularization",
    {
        "kl": {"kl_weight": "autoencoder.kl.weight"},
        "vq": {
            "codebook_size": "autoencoder.vq.codebook_size",
            "commitment": "autoencoder.vq.commitment",
        },
    },
)
IMAGE_CONDITION = Choice(
    "image_condition.name",
    {
        "": {},
        "data": {"channels": "image_condition.channels"},
        **{name: options_of(made, "image_condition") for name, made in OPERATORS.items()},
    },
)
LATENT = Choice(
    "latent.name",
    {
        "": {},
        "lsgm": {
            name: f"latent.{name}"
            for name in ("nf", "num_res_blocks", "ch_mult", "attn_resolutions", "channels")
        },
        "indm": {name: f"latent.{name}" for name in ("nf", "num_layers")},
    },
)
STUDY = Choice(
    "study.name",
    {"": {}}
    | {
        name: {option: f"study.{name}.{option}" for option in section}
        for name, section in sections.DEFAULT.study.items()
        if name != "name"
    },
)
"""Each study has the options of the section of its name."""
LEARNING_RATE = Choice(
    "optim.schedule",
    Registered(lambda: SCHEDULES, lambda name: options_of(SCHEDULES[name], "optim")),
)
CHOICES = (
    *(SDE, BETAS, SAMPLER, PREDICTOR, CORRECTOR, OBJECTIVE, NOISE_DENSITY, WEIGHTING),
    *(GUIDANCE_SCHEDULE, GUIDANCE_FORM, EDIT, POSTERIOR, REGULARIZATION, NETWORK, ENCODER),
    *(IMAGE_CONDITION, LATENT, STUDY, LEARNING_RATE, AVERAGE, COUPLING, SOURCE),
)
VARIATIONAL = ("hybrid", "vlb")  # objectives of a model that learns the variance
FEW_STEPS = ("consistency", "mean_flow")  # objectives of a model that samples in few steps
