"""Schedulers of diffusers as config fields, and back: the SDE, the parametrization, the sampler."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from models.published.base import Fields
from sde_lib import SDE, VP, Cosine, Linear, Sigmoid

Options = Mapping[str, Any]
SAMPLERS = {  # of the schedulers on a chain of betas: the same method here, or the nearest
    "DDPMScheduler": "ddpm",
    "DDPMParallelScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "DDIMParallelScheduler": "ddim",
    "PNDMScheduler": "lms",
    "LMSDiscreteScheduler": "lms",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "dpm_2",
    "KDPM2AncestralDiscreteScheduler": "dpm_2_ancestral",
    "DEISMultistepScheduler": "dpm_solver",
    "DPMSolverSinglestepScheduler": "dpmpp_2s",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverSDEScheduler": "dpmpp_sde",
    "UniPCMultistepScheduler": "unipc",
}
ALGORITHMS = {"dpmsolver": "dpm_solver", "sde-dpmsolver++": "dpmpp_2m_sde"}
"""Samplers by algorithm_type, where they are not the scheduler's own."""
BETAS = {"squaredcos_cap_v2": "cosine"} | {
    name: name for name in ("linear", "scaled_linear", "sigmoid", "laplace")
}
PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
VARIANCES = {
    **dict.fromkeys(("fixed_small", "fixed_small_log"), "posterior"),
    **dict.fromkeys(("fixed_large", "fixed_large_log"), "beta"),
    "learned_range": "learned",
}
ENDS = (("start", "min"), ("end", "max"))  # names of the first and the last beta, there and here
CONTINUOUS: dict[str, Callable[..., SDE]] = {
    "vpsde": VP,
    "cosine": Cosine,
    "sigmoid": Sigmoid,
    "linear": Linear,
}
"""SDEs that preserve variance: in continuous training their labels are 999 t / t_max."""
SPACINGS = ("leading", "trailing", "linspace")
SIGMAS = {  # other grids, by the option that asks for them
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_lu_lambdas": "log_snr",
}
UNKNOWN = ("thresholding", "use_beta_sigmas", "use_flow_sigmas", "use_dynamic_shifting")
"""Options that change samples in a way that we do not have."""
LEADING = ("DDPM", "DDIM", "PNDM")  # schedulers whose default spacing is not "linspace"
N_STEPS = 50  # usual, as a scheduler does not tell


def fields(options: Options) -> Fields:
    """Config fields of the SDE, the parametrization and the sampler.

    Args:
        options: content of scheduler_config.json; options that it lacks have their defaults.

    Raises:
        ValueError: a scheduler, or an option of it, that has no counterpart here.
    """
    name = str(options.get("_class_name"))
    if name == "ScoreSdeVeScheduler":
        return _ve(options)
    if name not in SAMPLERS:
        raise ValueError(
            f"the scheduler {name} has no counterpart here: known are ScoreSdeVeScheduler, "
            f"{', '.join(SAMPLERS)}"
        )
    for option in UNKNOWN:
        if options.get(option):
            raise ValueError(f"the scheduler {name} has {option} = {options[option]!r}: {UNLIKE}")
    prediction = options.get("prediction_type", "epsilon")
    return {
        "training.sde": "chain",
        "training.continuous": False,
        "model.parametrization": _known(PREDICTIONS, name, "prediction_type", prediction),
        **_betas(name, options),
        **_sampler(name, options),
    }


def write(fields: Fields) -> dict[str, Any]:
    """The scheduler of diffusers for a model: the content of scheduler_config.json.

    Args:
        fields: all config fields by their full names.

    Raises:
        ValueError: diffusers has no scheduler for this SDE, or for this parametrization.
    """
    name, continuous = fields["training.sde"], fields["training.continuous"]
    prediction = fields.get("model.parametrization", "score_sde")
    if name == "vesde" and continuous and prediction in ("score_sde", "score"):
        return {
            "_class_name": "ScoreSdeVeScheduler",
            "num_train_timesteps": fields.get("sampling.n_steps") or 2000,
            "sigma_min": fields["model.sigma_min"],
            "sigma_max": fields["model.sigma_max"],
            "snr": fields.get("sampling.snr") or 0.15,
            "correct_steps": fields.get("sampling.n_steps_each") or 1,
        }
    theirs = {ours: there for there, ours in PREDICTIONS.items()} | {"score_sde": "epsilon"}
    of_chain = name in CONTINUOUS or (name == "chain" and not continuous)
    if not of_chain or prediction not in theirs:
        raise ValueError(
            f"diffusers has no scheduler for config.training.sde = {name!r} with "
            f"config.model.parametrization = {prediction!r}: it has those of 'vesde' with "
            f"'score_sde', and of 'chain', {', '.join(map(repr, CONTINUOUS))} with 'epsilon', 'x0' "
            "or 'v'"
        )
    clip = fields.get("sampling.clip") or fields.get("guidance.clip.limit")
    made = {
        "prediction_type": theirs[prediction],
        **_their_betas(fields),
        "clip_sample": bool(clip),
        "clip_sample_range": clip or 1.0,
    }
    if fields.get("sampling.method") == "ddim":
        grid = fields.get("sampling.grid")
        to_one = fields.get("sampling.noise_removal") is not False
        made |= {"set_alpha_to_one": to_one, "steps_offset": int(not to_one)}
        made["timestep_spacing"] = grid if grid in SPACINGS else "trailing"
        return {"_class_name": "DDIMScheduler", **made}
    variance = "learned" if fields.get("model.learned_variance") else None
    variance = variance or fields.get("sampling.variance") or "beta"
    kinds = {"posterior": "fixed_small", "learned": "learned_range"}
    made["variance_type"] = kinds.get(variance, "fixed_large")
    return {"_class_name": "DDPMScheduler", **made}


UNLIKE = "samplers here have nothing like it; remove it from scheduler_config.json to go without"


def _known(names: Mapping[str, str], scheduler: str, option: str, value: Any) -> str:
    if value not in names:
        raise ValueError(
            f"the scheduler {scheduler} has {option} = {value!r}, which has no counterpart here: "
            f"known are {', '.join(names)}"
        )
    return names[value]


def _betas(name: str, options: Options) -> Fields:
    made: Fields
    if (betas := options.get("trained_betas")) is not None:
        made = {"model.beta_schedule": "explicit", "model.betas": tuple(map(float, betas))}
        made["model.num_scales"] = len(betas)
    else:
        schedule = options.get("beta_schedule", "linear")
        made = {"model.beta_schedule": _known(BETAS, name, "beta_schedule", schedule)}
        made["model.num_scales"] = options.get("num_train_timesteps", 1000)
    if options.get("rescale_betas_zero_snr"):
        made["model.zero_terminal_snr"] = True
    if made["model.beta_schedule"] in ("linear", "scaled_linear", "sigmoid"):
        start, end = (0.00085, 0.012) if name.startswith(("Heun", "KDPM2")) else (1e-4, 0.02)
        made["model.beta_start"] = options.get("beta_start", start)
        made["model.beta_end"] = options.get("beta_end", end)
    return made


def _sampler(name: str, options: Options) -> Fields:
    method = SAMPLERS[name]
    n_levels = len(options.get("trained_betas") or ()) or options.get("num_train_timesteps", 1000)
    n_steps = n_levels if method == "ddpm" else min(N_STEPS, n_levels)
    made: Fields = {"sampling.method": method, "sampling.n_steps": n_steps}
    if name == "DPMSolverMultistepScheduler":
        method = ALGORITHMS.get(options.get("algorithm_type", "dpmsolver++"), method)
        made["sampling.method"] = method
    if name == "UniPCMultistepScheduler":
        made["sampling.order"] = options.get("solver_order", 2)
        made["sampling.variant"] = options.get("solver_type", "bh2")
    if method == "ddpm":
        variance = options.get("variance_type", "fixed_small")
        made["sampling.variance"] = _known(VARIANCES, name, "variance_type", variance)
    limit = float(options.get("clip_sample_range", 1.0))
    if method == "ddpm" and options.get("clip_sample", True):
        made["guidance.clip.limit"] = limit
    if method == "ddim" and options.get("clip_sample", True):
        made["sampling.clip"] = limit
    if method == "heun" and options.get("clip_sample", False):
        made["guidance.clip.limit"] = limit
    return made | _grid(name, options)


def _grid(name: str, options: Options) -> Fields:
    """The grid of noise levels, which says those of fewer steps too."""
    for option, grid in SIGMAS.items():
        if options.get(option):
            return {"sampling.grid": grid}
    default = "leading" if name.startswith(LEADING) else "linspace"
    spacing = options.get("timestep_spacing", default)
    spacing = _known({name: name for name in SPACINGS}, name, "timestep_spacing", spacing)
    to_one = options.get("set_alpha_to_one", name != "PNDMScheduler")
    ends_at_data = to_one or spacing != "leading"
    return {"sampling.grid": spacing} | ({} if ends_at_data else {"sampling.noise_removal": False})


def _ve(options: Options) -> Fields:
    return {
        "training.sde": "vesde",
        "training.continuous": True,
        "model.sigma_min": float(options.get("sigma_min", 0.01)),
        "model.sigma_max": float(options.get("sigma_max", 1348.0)),
        "model.parametrization": "score_sde",
        "sampling.method": "predictor_corrector",
        "sampling.predictor": "reverse_diffusion",
        "sampling.corrector": "langevin",
        "sampling.n_steps": options.get("num_train_timesteps", 2000),
        "sampling.n_steps_each": options.get("correct_steps", 1),
        "sampling.snr": float(options.get("snr", 0.15)),
    }


def _their_betas(fields: Fields) -> dict[str, Any]:
    """The options that give the levels of a chain."""
    name, n_levels = fields["training.sde"], fields.get("model.num_scales", 1000)
    if fields["training.continuous"]:
        return {"trained_betas": _continuous_betas(name, fields), "num_train_timesteps": 1000}
    made: dict[str, Any] = {"num_train_timesteps": n_levels}
    if name == "vpsde":
        ends = {f"beta_{end}": fields[f"model.beta_{there}"] / n_levels for end, there in ENDS}
        return made | ends | {"beta_schedule": "linear"}
    if name in CONTINUOUS:
        return made | {"trained_betas": _betas_of(CONTINUOUS[name]().levels(n_levels))}
    made["rescale_betas_zero_snr"] = bool(fields.get("model.zero_terminal_snr"))
    schedule = fields.get("model.beta_schedule") or "linear"
    if schedule == "explicit":
        return made | {"trained_betas": list(fields["model.betas"])}
    made["beta_schedule"] = {ours: there for there, ours in BETAS.items()}[schedule]
    for end, default in (("beta_start", 1e-4), ("beta_end", 0.02)):
        made[end] = fields.get(f"model.{end}") or default
    return made


def _continuous_betas(name: str, fields: Fields) -> list[float]:
    """The betas of the 1000 levels whose times have the labels 0, ..., 999 in continuous training.

    Label 0 is the least time of training, where there is some noise.
    """
    ends = {f"beta_{end}": fields[f"model.beta_{end}"] for end in ("min", "max")}
    sde = CONTINUOUS[name](**(ends if name == "vpsde" else {}))
    t = np.maximum(np.arange(1000) / 999 * sde.t_max, sde.train_t_min)
    return _betas_of(np.asarray(sde.log_snr(jnp.float32(t)), np.float64))


def _betas_of(log_snrs: np.ndarray) -> list[float]:
    """The betas of a chain with these log-SNRs."""
    alpha2 = 1 / (1 + np.exp(-log_snrs))
    return (1 - alpha2 / np.append(1.0, alpha2[:-1])).tolist()
