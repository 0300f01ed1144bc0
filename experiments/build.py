"""From a config to the objects that it names."""

import dataclasses
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import optax

import models
import samplers
import sde_lib
from configs import default
from experiments.data import augment, model_space
from experiments.pipeline import scores
from experiments.runs import workdir as workdirs
from models import parametrization
from models.config import Config
from models.dit import DiT, check_patches
from samplers.solver import NoiseLevelSolver
from sde_lib.batch import PerSample
from sde_lib.checks import check_at_least, check_name, check_positive
from sde_lib.probes import Probe

SAMPLING_NAMES = {  # of samplers' fields in config.sampling, where they differ
    "denoise": "noise_removal",
    "n_corrector_steps": "n_steps_each",
    "n_levels": "n_steps",
}

SCHEDULE = "schedule"  # the name of the learned one's parameters, among the network's
VARIATIONAL = ("hybrid", "vlb")  # objectives of a model that learns the variance
NOT_VARIATIONAL = (  # fields of config.training that they have no use for
    *("likelihood_weighting", "importance_sampling", "reduce_mean", "noise_density", "weighting"),
    *("input_perturbation", "soft_truncation"),
)
OWN = (  # fields of config.sampling that are None, or an option of the method
    *("step_size", "grid", "rho", "sigma_max", "sigma_min", "eta", "order", "variant", "alpha"),
    "variance",
    *("s_churn", "s_tmin", "s_tmax", "s_noise"),
)


def make_sde(config: Config) -> sde_lib.SDE:
    """The SDE that config.training.sde names, with its numbers from config.model.

    In discrete training, VP's is the one through the levels of DDPM's chain. "edm" and the
    schedules have the published numbers: config.model's sigma_min and sigma_max are VE's.
    """
    model = config.model
    families = {
        "vesde": lambda: sde_lib.VE(model.sigma_min, model.sigma_max),
        "vpsde": lambda: sde_lib.VP(model.beta_min, model.beta_max),
        "subvpsde": lambda: sde_lib.SubVP(model.beta_min, model.beta_max),
        "edm": sde_lib.EDM,
        "cosine": sde_lib.Cosine,
        "sigmoid": sde_lib.Sigmoid,
        "linear": sde_lib.Linear,
        "flow": sde_lib.LinearFlow,
        "cld": lambda: sde_lib.CLD(model.cld_beta, model.cld_mass, model.cld_gamma),
        "log_linear": lambda: sde_lib.LogLinear(model.gamma_min, model.gamma_max),
    }
    check_name("config.training.sde", config.training.sde, families)
    sde = families[config.training.sde]()
    if config.training.continuous:
        return sde
    levels = sde.levels(model.num_scales)
    return sde_lib.Table(tuple(levels.tolist())) if config.training.sde == "vpsde" else sde


def make_sampler(config: Config, analytic: sde_lib.AnalyticVariance | None = None):
    """The sampler that config.sampling describes; what that leaves at None is the sampler's own.

    `analytic` takes the place of the variance "analytic", without which that samples nothing.
    """
    options = config.sampling
    check_name("config.sampling.method", options.method, samplers.SAMPLERS)
    fields = {field.name for field in dataclasses.fields(samplers.SAMPLERS[options.method])}
    values = {field: options.get(SAMPLING_NAMES.get(field, field)) for field in fields}
    given = {field: value for field, value in values.items() if value is not None}
    if analytic is not None:
        given["variance"] = analytic
    unused = [name for name in OWN if options.get(name) is not None and name not in fields]
    if unused:
        raise ValueError(
            f"config.sampling.{unused[0]} is {options[unused[0]]}, but the method "
            f"{options.method!r} has no such option: leave it out"
        )
    return samplers.create(options.method, **given)


def make_solver(config: Config, name: str, nfe: int) -> NoiseLevelSolver:
    """The solver of this name that ends with x_0 after nfe network evaluations.

    What else config.sampling says of solvers holds for it too.

    Raises:
        ValueError: no solver from noise level to noise level, none of nfe evaluations, or one that
            config.sampling.discriminator cannot guide.
    """
    known = {name for name, kind in samplers.SAMPLERS.items() if issubclass(kind, NoiseLevelSolver)}
    check_name("solver", name, known)
    check_at_least(2, nfe=nfe)
    config = config.copy_and_resolve_references()
    config.sampling.update(method=name, noise_removal=True)

    def create(n_steps: int) -> Any:
        config.sampling.n_steps = n_steps
        return make_sampler(config)

    solver = next(solver for solver in map(create, range(nfe, 0, -1)) if solver.nfe <= nfe)
    if solver.nfe != nfe:
        raise ValueError(
            f"{name} makes {solver.nfe} network evaluations in {solver.n_steps} steps and "
            f"{create(solver.n_steps + 1).nfe} in one more, never {nfe}: choose of those"
        )
    if config.sampling.discriminator and not solver.takes_tuple:
        raise ValueError(
            f"{name} does not tell the first evaluation of a step from the others, which a "
            "discriminator's weights do: take another solver"
        )
    return solver


def make_noise_density(config: Config) -> sde_lib.noise_density.Quantile | None:
    """The density of noise levels in training; None where t is uniform."""
    training = config.training
    return sde_lib.noise_density.create(
        training.noise_density,
        make_sde(config),
        training.noise_mean,
        training.noise_std,
        training.noise_std_above,
        config.model.sigma_data,
        image_shape(config)[0],
    )


def make_loss(
    config: Config, levels: int | None = None, params: Any = None
) -> Callable[..., tuple[PerSample, dict[str, PerSample]]]:
    """The objective that config.training names, with the options that it has there.

    Args:
        config: of the training.
        levels: of grey in the data, None for points.
        params: of the model; "vdm" draws noise levels by the schedule in them, and without params
            uniformly in log-SNR.
    """
    training, sigma_data = config.training, config.model.sigma_data
    if training.objective == "vdm":
        options = {"stratified": training.stratified, "n_strata": training.batch_size}
        if params is not None and config.model.learned_schedule:
            gamma: Any = partial(make_schedule(config).apply, {"params": params[SCHEDULE]})
            options["schedule"] = lambda u: -gamma(u)
        return partial(sde_lib.diffusion_loss, **options)
    if training.objective in VARIATIONAL:
        return partial(
            sde_lib.variational_loss,
            vlb_weight=training.vlb_weight if training.objective == "hybrid" else None,
            stratified=training.stratified,
            n_strata=training.batch_size,
            data_range=model_space.data_range(config),
            levels=None if config.data.uniform_dequantization else levels,
        )
    sliced = partial(sde_lib.sliced_score_matching, n_projections=training.n_projections)
    objectives = {
        "denoising": sde_lib.denoising_score_matching,
        "explicit": sde_lib.explicit_score_matching,
        "sliced": sliced,
        "sliced_vr": partial(sliced, variance_reduction=True),
    }
    known = (*objectives, "vdm", *VARIATIONAL)
    check_name("config.training.objective", training.objective, known)
    return partial(
        objectives[training.objective],
        likelihood_weighting=training.likelihood_weighting,
        importance_sampling=training.importance_sampling,
        reduce_mean=training.reduce_mean,
        stratified=training.stratified,
        n_strata=training.batch_size,
        n_levels=None if training.continuous else config.model.num_scales,
        noise_density=make_noise_density(config),
        weighting=sde_lib.weighting.create(training.weighting, sigma_data, training.weighting_bias),
        input_perturbation=training.input_perturbation,
        soft_truncation=training.soft_truncation,
    )


def make_schedule(config: Config) -> models.LearnedSchedule:
    """The learned schedule of config.model, between the ends of the SDE "log_linear"."""
    return models.LearnedSchedule(config.model.gamma_min, config.model.gamma_max)


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam with linear warm-up, after clipping the gradient to a global norm.

    The encoder that a discriminator has of another run stays, without moments or decay. A learned
    schedule's gradient, which is of another loss, is clipped on its own.
    """
    optim = config.optim
    check_name("config.optim.optimizer", optim.optimizer, ("Adam",))
    rate = optax.linear_schedule(0.0, optim.lr, optim.warmup) if optim.warmup else optim.lr
    clip = optax.clip_by_global_norm(optim.grad_clip) if optim.grad_clip > 0 else optax.identity()
    adam = optax.adamw(rate, optim.beta1, optim.beta2, optim.eps, weight_decay=optim.weight_decay)
    optimizer = optax.chain(clip, adam)
    if models.is_autoencoder(config) and config.autoencoder.adversarial_weight > 0:
        return optax.partition({False: optimizer, True: optimizer}, _are_discriminator)
    if config.model.learned_schedule:
        parts: Any = {"network": optimizer, SCHEDULE: optimizer}
        return optax.partition(
            parts, lambda params: {n: n if n in parts else "network" for n in params}
        )
    if not (models.is_discriminator(config) and config.model.pretrained):
        return optimizer
    parts = {"encoder": optax.set_to_zero(), "head": optimizer}
    return optax.partition(parts, {part: part for part in parts})


def _are_discriminator(params: Any) -> dict[str, bool]:
    """Of an autoencoder's parts: a discriminator's gradient is clipped apart from the others."""
    return {part: part == "discriminator" for part in params}


def check(config: Config) -> None:
    """Raises ValueError for numbers that no run can have, before anything is compiled."""
    sde, sampler = make_sde(config), make_sampler(config, _stand_in(config))
    make_optimizer(config)
    network: Any = models.create(config)
    network = getattr(network, "encoder", network)
    if isinstance(network, DiT):
        check_patches(image_shape(config), network.patch_size)
    training, sampling, evaluation = config.training, config.sampling, config.eval
    check_at_least(
        1,
        **{
            "config.training.n_iters": training.n_iters,
            "config.training.batch_size": training.batch_size,
            "config.training.n_microbatches": training.n_microbatches,
            "config.training.log_freq": training.log_freq,
            "config.training.snapshot_freq": training.snapshot_freq,
            "config.training.snapshot_freq_for_preemption": training.snapshot_freq_for_preemption,
            "config.training.eval_freq": training.eval_freq,
            "config.training.max_skipped": training.max_skipped,
            "config.sampling.n_samples": sampling.n_samples,
            "config.sampling.batch_size": sampling.batch_size,
            "config.eval.batch_size": evaluation.batch_size,
            "config.eval.n_probes": evaluation.n_probes,
            "config.eval.n_repeats": evaluation.n_repeats,
        },
    )
    check_name("config.eval.probe", evaluation.probe, get_args(Probe))
    if not 0 < training.stall_seconds < threading.TIMEOUT_MAX:
        raise ValueError(
            f"config.training.stall_seconds is {training.stall_seconds}: it must be positive, and "
            f"less than {threading.TIMEOUT_MAX:.0f}"
        )
    for name in ("rtol", "atol"):
        if not evaluation[name] > 0:
            raise ValueError(f"config.eval.{name} is {evaluation[name]}: it must be positive")
    _check_conditioning(config)
    _check_training(config)
    _check_vdm(config)
    _check_variance(config)
    scores.check(config, sde)
    # Tracing tells whether the sampler fits the SDE (enough steps for VP's chain?), the loss, and
    # the parametrization.
    key, x = jax.random.key(0), jnp.zeros((1, 2))
    score_fn: sde_lib.ScoreFn = lambda x, t: x  # noqa: E731
    if config.model.learned_variance:
        score_fn = sde_lib.ScoreAndVariance(lambda x, t: (x, x))
    with warnings.catch_warnings(action="ignore"):  # sampling itself will warn
        jax.eval_shape(lambda key: sampler(key, sde, score_fn, x.shape), key)
    jax.eval_shape(lambda key: make_loss(config)(key, sde, score_fn, x), key)
    jax.eval_shape(models.network_inputs(config, sde), x, jnp.ones(1))


def _kind_of_labels(config: Config) -> str:
    """What models.noise_labels gives to a network for images."""
    of_level = {"edm": "logarithms", "edm_ve": "logarithms", "edm_vp": "times"}
    name = config.model.get("parametrization", "score_sde")
    if name in of_level:
        return of_level[name]
    if name == "edm_iddpm" or not config.training.continuous:
        return "indices"
    return "sigmas" if config.training.sde in ("vesde", "edm") else "times"


def _check_training(config: Config) -> None:
    """Raises ValueError for averages, rates and probabilities that no run can have."""
    model, data = config.model, config.data
    if not 0 <= model.ema_rate < 1:
        raise ValueError(f"config.model.ema_rate is {model.ema_rate}: it must be in [0, 1)")
    for name in ("ema_halflife", "ema_rampup"):
        if not model[name] >= 0:
            raise ValueError(f"config.model.{name} is {model[name]}: it must be 0 or more")
    if not config.optim.lr > 0:
        raise ValueError(f"config.optim.lr is {config.optim.lr}: it must be positive")
    for name, p in (("model.label_dropout", model.label_dropout), ("data.augment", data.augment)):
        if not 0 <= p <= 1:
            raise ValueError(f"config.{name} is {p}: it must be a probability, in [0, 1]")
    check_at_least(0, **{"config.model.augment_dim": model.augment_dim})
    check_at_least(0, **{"config.training.loss_history": config.training.loss_history})
    if model.label_confidence and not model.class_conditional:
        raise ValueError("config.model.label_confidence needs config.model.class_conditional=True")
    if model.label_dropout and not scores.is_conditional(config):
        raise ValueError(
            "config.model.label_dropout needs config.model.class_conditional=True, or "
            "config.model.text"
        )
    if models.is_autoencoder(config):
        _check_autoencoder(config)
    if data.autoencoder:
        _check_latents(config)
    if config.training.soft_truncation is not None and (
        models.is_classifier(config) or models.is_autoencoder(config)
    ):
        raise ValueError(
            f"config.training.soft_truncation is of score models, not of {model.name!r}: leave it "
            "out"
        )
    if data.confidence and not model.label_confidence:
        raise ValueError("config.data.confidence needs config.model.label_confidence=True")
    if data.augment and model.augment_dim != augment.N_LABELS:
        raise ValueError(
            f"config.model.augment_dim is {model.augment_dim}: config.data.augment has "
            f"{augment.N_LABELS} labels for the network; set it to that, or data.augment to 0"
        )
    if data.augment and data.random_flip:
        raise ValueError(
            "config.data.augment flips images already: set config.data.random_flip=False"
        )


def _check_autoencoder(config: Config) -> None:
    """Raises ValueError for weights and steps that no autoencoder's loss can have."""
    options = config.autoencoder
    for name in ("kl_weight", "commitment", "perceptual_weight", "adversarial_weight"):
        check_positive(or_zero=True, **{f"config.autoencoder.{name}": options[name]})
    check_at_least(0, **{"config.autoencoder.adversarial_start": options.adversarial_start})
    if options.perceptual and not Path(options.perceptual).exists():
        raise ValueError(
            f"config.autoencoder.perceptual is {options.perceptual!r}: give a file of Inception's "
            "weights, or the folder of a classifier"
        )
    if options.adversarial_start and not options.adversarial_weight:
        raise ValueError(
            "config.autoencoder.adversarial_start does nothing without adversarial_weight: give "
            "that too, or leave it out"
        )


def _check_latents(config: Config) -> None:
    """Raises ValueError for what cannot be done with latents in the place of images."""
    model, data = config.model, config.data
    if models.is_autoencoder(config) or models.encoder_name(config) == "mlp":
        raise ValueError(
            f"config.data.autoencoder gives latents, which are not for the network {model.name!r}: "
            "it takes images or points; leave it out"
        )
    for name in ("random_flip", "augment"):
        if data[name]:
            raise ValueError(
                f"config.data.{name} is {data[name]!r}: it changes images, and with "
                "config.data.autoencoder the data are latents; leave it to the autoencoder's run"
            )
    image_shape(config)


def _check_vdm(config: Config) -> None:
    """Raises ValueError for the objective "vdm" of what has no grey levels of its own."""
    training, model = config.training, config.model
    if model.learned_schedule and (training.objective, training.sde) != ("vdm", "log_linear"):
        raise ValueError(
            "config.model.learned_schedule belongs to config.training.objective = 'vdm' and sde = "
            f"'log_linear', here they are {training.objective!r} and {training.sde!r}"
        )
    no_score = models.is_classifier(config) or models.is_autoencoder(config)
    if model.learned_schedule and no_score:
        raise ValueError(
            f"config.model.learned_schedule is of a score model, not of {model.name!r}: leave it "
            "out"
        )
    if training.objective != "vdm":
        return
    if models.encoder_name(config) == "mlp" or config.data.autoencoder:
        raise ValueError(
            "config.training.objective = 'vdm' is for images, which have grey levels: for points "
            "and latents, set likelihood_weighting and importance_sampling, its diffusion loss"
        )
    if config.data.uniform_dequantization:
        raise ValueError(
            "config.training.objective = 'vdm' is the bound of the grey levels themselves: set "
            "config.data.uniform_dequantization=False"
        )
    _check_unused(training)


def _check_variance(config: Config) -> None:
    """Raises ValueError for objectives and variances that do not go together."""
    training, learned = config.training, config.model.learned_variance
    if learned != (training.objective in VARIATIONAL):
        raise ValueError(
            f"config.model.learned_variance is {learned}, config.training.objective "
            f"{training.objective!r}: the variance is learned by 'hybrid' or 'vlb', and by these "
            "alone"
        )
    if learned and (training.continuous or training.sde != "vpsde"):
        raise ValueError(
            "config.model.learned_variance needs the levels of DDPM's chain: set "
            "config.training.continuous=False and config.training.sde='vpsde'"
        )
    if training.loss_history and not learned:
        raise ValueError(
            "config.training.loss_history is of the terms of the bound: it needs "
            "config.training.objective='vlb' or 'hybrid'"
        )
    if training.loss_history and training.n_microbatches > 1:
        raise ValueError(
            "config.training.loss_history is of whole batches: set config.training.n_microbatches=1"
        )
    if learned:
        _check_unused(training)


def _check_unused(training: Config) -> None:
    """Raises ValueError for options of score matching that the bound has no use for."""
    plain = default.get_config().training
    for name in NOT_VARIATIONAL:
        if training[name] != plain[name]:
            raise ValueError(
                f"config.training.{name} is {training[name]!r}, which the objective "
                f"{training.objective!r} has no use for: leave it at {plain[name]!r}"
            )


def _stand_in(config: Config) -> sde_lib.AnalyticVariance | None:
    """For a variance that is to be computed."""
    is_analytic = config.sampling.variance == "analytic"
    return sde_lib.AnalyticVariance((0.0,), (1.0,)) if is_analytic else None


def _check_conditioning(config: Config) -> None:
    """Raises ValueError for a network that cannot make sense of its labels (models.score_fn)."""
    parametrization.check(config)
    model, continuous = config.model, config.training.continuous
    network = models.encoder_name(config)
    labelless = network == "mlp" or models.is_autoencoder(config)
    if labelless or models.encoder_is_classifier(config):
        return
    kind, name = _kind_of_labels(config), model.get("parametrization", "score_sde")
    embedding = model.get("embedding_type", "fourier")  # NCSNpp's default
    fourier = network == "ncsnpp" and embedding == "fourier"
    takes_logarithm = fourier and model.get("log_labels", True)
    what = f"the network {network!r}"
    if network == "ncsnpp":
        what += f" with embedding_type = {embedding!r}"
    knows_levels_only = network.startswith("ncsnv2") or network == "ncsn"
    if knows_levels_only and (continuous or name in parametrization.LEVEL_LABELS):
        raise ValueError(
            f"{what} knows discrete levels only: set config.training.continuous=False and "
            "config.model.parametrization='score_sde'"
        )
    if fourier and kind == "indices":
        raise ValueError(
            f"{what} takes the logarithm of its labels, which are 0, 1, ... in discrete training "
            "and with parametrization = 'edm_iddpm': set config.model.embedding_type='positional'"
        )
    if fourier and takes_logarithm == (kind == "logarithms"):
        raise ValueError(
            f"{what} and log_labels = {takes_logarithm} is given {kind} with parametrization = "
            f"{name!r}: set config.model.log_labels={not takes_logarithm}"
        )
    if kind == "sigmas" and not takes_logarithm:
        raise ValueError(
            f"{what} cannot tell sigmas apart, which are the labels under 'vesde' and 'edm': take "
            "'ncsnpp' with embedding_type = 'fourier', or config.model.parametrization='edm', or "
            "set config.training.continuous=False (VE only)"
        )
    ve = config.training.sde in ("vesde", "edm")
    default = getattr(models.MODELS.get(network), "scale_by_sigma", False)
    if model.get("scale_by_sigma", default) and not (ve and name in ("score_sde", "score")):
        raise ValueError(
            "config.model.scale_by_sigma makes the output a score, which is VE's convention with "
            "parametrization = 'score_sde': set it to False"
        )


def image_shape(config: Config) -> tuple[int, ...]:
    """Shape of one sample of config.data: of an image or its latent, or (2,) for points."""
    if models.encoder_name(config) == "mlp":
        return (2,)
    if config.data.autoencoder:
        return models.latent_shape(autoencoder_config(config))
    return (config.data.image_size, config.data.image_size, config.data.num_channels)


def autoencoder_config(config: Config) -> Config:
    """The config of the run in config.data.autoencoder, on the same devices.

    Raises:
        ValueError: there is no run, or one of no autoencoder, or of other data.
    """
    folder = Path(config.data.autoencoder)
    theirs = workdirs.load_config(folder)
    theirs.mesh = config.mesh
    if not models.is_autoencoder(theirs):
        raise ValueError(
            f"config.data.autoencoder, {folder}, holds the model {theirs.model.name!r}: give the "
            "folder of a trained autoencoder"
        )
    for name in ("dataset", "path", "test_fraction", "image_size", "num_channels", "centered"):
        if config.data[name] != theirs.data[name]:
            raise ValueError(
                f"the autoencoder in {folder} is of data with config.data.{name} = "
                f"{theirs.data[name]!r}, here it is {config.data[name]!r}"
            )
    return theirs


def dummy_inputs(config: Config):
    """A state, or of an autoencoder images, and labels to initialise a network with."""
    if models.is_autoencoder(config):
        return jnp.zeros((1, *image_shape(config))), jnp.ones(1)
    return jnp.zeros(make_sde(config).state_shape((1, *image_shape(config)))), jnp.ones(1)
