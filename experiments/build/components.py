"""Objects made from the sections of a config: SDE, sampler, loss, options of training, ..."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import models
import samplers
import sde_lib
from experiments.build import grids
from experiments.build.checks import couplings
from experiments.build.checks.missing import missing
from experiments.build.fields import choices, sections
from experiments.data import augment
from experiments.data.dataset import DataSpec
from experiments.data.prepare.picture import Transform
from experiments.data.scaling import Scaling
from experiments.data.sources import SOURCES
from experiments.pipeline.edit import Edit, Fit
from experiments.pipeline.labels import as_labels
from experiments.pipeline.model import LikelihoodOptions, check_kind
from experiments.runs import devices
from experiments.training.averages.power import PowerAverage
from experiments.training.objective import Loss
from experiments.training.optimizer import OPTIMIZERS, Adam
from experiments.training.options import Average, Training
from experiments.training.schedules import SCHEDULES
from models import NoiseModel, few_steps
from models import log_variance as log_variances
from models.config import Config
from models.dit import DiT, check_patches
from models.learned_schedule import SCHEDULE
from models.mixing import MixedModel
from samplers.guidance_schedules import Schedule
from samplers.registry import Sampler
from samplers.solver import NoiseLevelSolver
from sde_lib.checks import check_at_least, check_in, check_name

LEVELS = {"uint8": 256, "uint16": 65_536, "float": None}
"""Grey levels by config.data.dtype."""
MOST_FEATURES = 4096  # numbers of a sample that are its features
SIGMA_DATA = {  # components that use config.model.sigma_data
    "model.parametrization": ("edm", "energy"),
    "weighting.name": ("edm", "soft_min_snr"),
    "noise_density.name": ("v_diffusion", "cosine_interpolated"),
}


def sde(config: Config) -> sde_lib.SDE:
    """The SDE that config.training.sde names, with its numbers from config.model.

    In discrete training, one that preserves variance is that through the levels of DDPM's chain.

    Raises:
        ValueError: an unknown SDE, impossible numbers, or continuous training of a chain.
    """
    name, options = choices.SDE.read(config)
    if name == "chain":
        return _chain(config, bool(options.get("zero_terminal_snr")))
    made = choices.SDES[name][0](**options)
    if config.training.continuous or name not in choices.DISCRETISED:
        return made
    return sde_lib.Table(tuple(made.levels(config.model.num_scales).tolist()))


def _chain(config: Config, zero_terminal_snr: bool) -> sde_lib.SDE:
    schedule, options = choices.BETAS.read(config)
    if config.training.continuous:
        raise ValueError(
            "config.training.sde = 'chain' has config.model.num_scales noise levels: set "
            "config.training.continuous=False"
        )
    return sde_lib.chain(config.model.num_scales, schedule, zero_terminal_snr, **options)


def sampler(config: Config) -> Sampler:
    """The sampler that config.sampling describes."""
    name, options = choices.SAMPLER.read(config)
    choices.PREDICTOR.check(config)
    choices.CORRECTOR.check(config)
    known = choices.SAMPLER.components[name]
    defaults = {key: value for key, value in choices.SAMPLING_DEFAULTS.items() if key in known}
    if options.get("log_prob"):
        del defaults["denoise"]  # the densities are those of the flow's own samples
    return samplers.create(name, **_with_levels(config, name, defaults | options))


def _with_levels(config: Config, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a sampler, with the levels in the file that config.sampling.grid may name."""
    grid = options.get("grid")
    if not _is_file(grid):
        return options
    plain: Any = samplers.create(name, **{k: v for k, v in options.items() if k != "grid"})
    if not hasattr(plain, "n_levels"):
        return options
    return options | {"grid": grids.levels(Path(str(grid)), sde(config), plain.n_levels)}


def _is_file(value: Any) -> bool:
    """True for the path of a file of grids."""
    return isinstance(value, str) and value.endswith(grids.ENDING)


def solver(config: Config, name: str, nfe: int) -> NoiseLevelSolver:
    """The solver of this name that ends with x_0 after nfe network evaluations.

    Options of config.sampling that it has hold for it too.

    Raises:
        ValueError: no solver from noise level to noise level, none of nfe evaluations, or an option
            of config.sampling that only other solvers have.
    """
    known = {name for name, kind in samplers.SAMPLERS.items() if issubclass(kind, NoiseLevelSolver)}
    check_name("solver", name, known)
    check_at_least(2, nfe=nfe)
    fields = choices.SAMPLER.components[name]
    options_of_all = {
        field for other in known for field in choices.SAMPLER.components[other].values()
    }
    for field in sorted(options_of_all - set(fields.values())):
        if sections.is_set(config, field):
            raise ValueError(
                f"config.{field} is {sections.get(config, field)!r}, but the solver {name!r} has "
                "no such option: leave it out"
            )
    values = {option: sections.get(config, field) for option, field in fields.items()}
    options = {k: v for k, v in values.items() if v is not None} | {"denoise": True}

    def create(n_steps: int) -> Any:
        return samplers.create(name, **plain | {"n_steps": n_steps})

    plain = {key: value for key, value in options.items() if not _is_file(value)}
    made = next(solver for solver in map(create, range(nfe, 0, -1)) if solver.nfe <= nfe)
    if made.nfe != nfe:
        raise ValueError(
            f"{name} makes {made.nfe} network evaluations in {made.n_steps} steps and "
            f"{create(made.n_steps + 1).nfe} in one more, never {nfe}: choose one of those"
        )
    chosen: Any = samplers.create(
        name, **_with_levels(config, name, options | {"n_steps": made.n_steps})
    )
    return chosen


def noise_density(
    config: Config, sde: sde_lib.SDE, shape: tuple[int, ...] | None = None
) -> sde_lib.noise_density.Quantile | None:
    """The density of noise levels in training; None: t is uniform.

    `shape` is that of a sample in model space; None: as the data set has it.
    """
    name, options = choices.NOISE_DENSITY.read(config)
    return sde_lib.noise_density.create(
        name,
        sde,
        **options,
        sigma_data=config.model.sigma_data,
        image_size=_side(shape or data_shape(config)),
    )


def weighting(config: Config, sde: sde_lib.SDE) -> sde_lib.weighting.Weighting | None:
    """The weighting of the loss over noise levels; None for none."""
    name, options = choices.WEIGHTING.read(config)
    if name == "elbo":
        number = n_levels(config)
        if number is None:
            raise ValueError(
                "config.weighting.name = 'elbo' is of a chain of noise levels: set "
                "config.training.continuous=False, or take config.training.likelihood_weighting"
            )
        return sde_lib.variational.elbo_weighting(sde.levels(number), **options)
    return sde_lib.weighting.create(name, config.model.sigma_data, **options)


def loss_of(
    config: Config, sde: sde_lib.SDE, shape: tuple[int, ...] | None = None
) -> Callable[[Any], Loss]:
    """The training loss by the parameters, of which those of a schedule or log variance are a part.

    Given None, "vdm" draws noise levels uniformly in log-SNR, and no loss has a log variance.
    """
    name, options = choices.OBJECTIVE.read(config)
    strata = {
        "stratified": config.objective.stratified,
        "n_strata": config.training.batch_size,
    }
    if name == "vdm":
        return _vdm_loss(config, strata)
    if name in choices.VARIATIONAL:
        vlb_weight = 1e-3 if config.objective.vlb_weight is None else config.objective.vlb_weight
        scale = scaling(config)
        loss: Loss = partial(
            sde_lib.variational_loss,
            vlb_weight=vlb_weight if name == "hybrid" else None,
            **strata,
            data_range=scale.range,
            levels=None if scale.dequantize else scale.levels,
        )
        return lambda params: loss
    if name in choices.FEW_STEPS:
        loss = _few_steps_loss(config, sde, shape, name, options | strata)
        return lambda params: loss
    objectives = {
        "denoising": sde_lib.denoising_score_matching,
        "cross_entropy": sde_lib.cross_entropy_loss,
        "explicit": sde_lib.explicit_score_matching,
        "sliced": sde_lib.sliced_score_matching,
        "sliced_vr": partial(sde_lib.sliced_score_matching, variance_reduction=True),
    }
    for option in ("log_variance", "coupling", "bridge"):
        options.pop(option, None)
    options |= couplings.losses(config, sde) if name == "denoising" else {}
    if name == "cross_entropy":
        _check_continuous(config)
    else:
        options |= {
            "noise_density": noise_density(config, sde, shape),
            "weighting": weighting(config, sde),
            "n_levels": n_levels(config),
        }
    loss = partial(objectives[name], **options | strata)
    network = log_variance(config)

    def of_params(params: Any) -> Loss:
        if network is None or params is None:
            return loss
        of_label = partial(network.apply, {"params": log_variances.parameters(params)})
        return partial(loss, log_variance=lambda t: of_label(jnp.log(sde.noise_level(t)) / 4))

    return of_params


def _vdm_loss(config: Config, strata: dict[str, Any]) -> Callable[[Any], Loss]:
    """The diffusion loss by the parameters, those of a learned schedule among them."""
    schedule = learned_schedule(config)

    def vdm(params: Any) -> Loss:
        if params is None or schedule is None:
            return partial(sde_lib.diffusion_loss, **strata)
        gamma: Any = partial(schedule.apply, {"params": params[SCHEDULE]})
        return partial(sde_lib.diffusion_loss, **strata, schedule=lambda u: -gamma(u))

    return vdm


def _few_steps_loss(
    config: Config,
    sde: sde_lib.SDE,
    shape: tuple[int, ...] | None,
    name: str,
    options: dict[str, Any],
) -> Loss:
    """The loss of a consistency model, without its teacher, or of a mean flow."""
    _check_continuous(config)
    if config.data.missing:
        raise ValueError(
            f"config.objective.name = {name!r} needs complete data, but config.data.missing is "
            f"{config.data.missing!r}: leave one of them out"
        )
    options.pop("teacher", None)
    options["noise_density"] = noise_density(config, sde, shape)
    if name == "mean_flow":
        return partial(sde_lib.mean_flow_loss, **options)
    stages = {field.name for field in dataclasses.fields(sde_lib.Curriculum)} & options.keys()
    curriculum = sde_lib.Curriculum(**{stage: options.pop(stage) for stage in stages})
    return partial(sde_lib.consistency_loss, curriculum=curriculum, **options)


def _check_continuous(config: Config) -> None:
    if n_levels(config) is not None:
        raise ValueError(
            "config.training.continuous is False, but config.objective.name = "
            f"{config.objective.name!r} is an integral over t: set it to True"
        )


def held_out_loss(config: Config, sde: sde_lib.SDE, shape: tuple[int, ...] | None = None) -> Loss:
    """The training loss for held-out data: soft truncation would cut all of them at one time."""
    loss: Any = loss_of(config, sde, shape)(None)
    if config.objective.soft_truncation is None:
        return loss
    return partial(loss, soft_truncation=None)


def learned_schedule(config: Config) -> models.LearnedSchedule | None:
    """The learned noise schedule, between the ends of the SDE "log_linear"; None without one."""
    if not config.model.learned_schedule:
        return None
    own = config.objective.name, config.training.sde, config.training.continuous
    if own != ("vdm", "log_linear", True):
        raise ValueError(
            "config.model.learned_schedule belongs to config.objective.name = 'vdm' and "
            "config.training.sde = 'log_linear', here they are "
            f"{own[0]!r} and {own[1]!r}, with config.training.continuous = {own[2]} (needed: True)"
        )
    ends: Any = sde(config)
    return models.LearnedSchedule(ends.gamma_min, ends.gamma_max)


def log_variance(config: Config) -> models.LogVariance | None:
    """The learned log variance of the loss; None without one.

    Raises:
        ValueError: an SDE without one noise level, or an EDM2 with another number of features.
    """
    features = config.objective.log_variance or 0
    check_at_least(0, **{"config.objective.log_variance": features})
    if not features:
        return None
    if config.training.sde == "cld":
        raise ValueError(
            "config.objective.log_variance is of a noise level, which config.training.sde = 'cld' "
            "does not have: leave it out"
        )
    if config.model.get("logvar_channels", features) not in (0, features):
        raise ValueError(
            f"config.objective.log_variance is {features}, config.model.logvar_channels "
            f"{config.model.logvar_channels}: set both to the same number"
        )
    return models.LogVariance(features)


def loss_history(config: Config) -> tuple[int, int] | None:
    """(noise levels, terms kept of each) of the loss history; None without."""
    n = config.objective.loss_history or 0
    check_at_least(0, **{"config.objective.loss_history": n})
    if n and config.training.n_microbatches > 1:
        raise ValueError(
            "config.objective.loss_history is of whole batches: set config.training.n_microbatches="
            "1"
        )
    return (config.model.num_scales, n) if n else None


def n_levels(config: Config) -> int | None:
    """Noise levels of discrete training; None for continuous.

    Raises:
        ValueError: config.model.num_scales is out of range, or set without effect.
    """
    number = config.model.num_scales
    check_at_least(1, **{"config.model.num_scales": number})
    network = models.network_class(config)
    used = not config.training.continuous or hasattr(network, "num_scales")
    if sections.is_set(config, "model.num_scales") and not used:
        raise ValueError(
            f"config.model.num_scales is {number}, which does nothing in continuous training of "
            f"{config.model.name!r}: leave it out, or set config.training.continuous=False"
        )
    return None if config.training.continuous else config.model.num_scales


def mesh(config: Config, its_devices: Any = None) -> Mesh:
    """The devices as config.mesh arranges them."""
    return devices.make_mesh(config.mesh.data, config.mesh.fsdp, its_devices)


def scaling(config: Config) -> Scaling:
    """The scaling from the data to model space, without the moments of standardised data."""
    dtype, options = data_dtype(config), (config.data.centered, config.data.uniform_dequantization)
    if config.data.autoencoder:
        return Scaling(None, *options)
    levels = LEVELS[dtype] if dtype else source(config).levels
    return Scaling(levels, *options, standardized=dtype == "float", missing=missing(config))


def source(config: Config) -> Any:
    """The source that config.data.dataset names."""
    check_name("config.data.dataset", config.data.dataset, SOURCES)
    return SOURCES[config.data.dataset]


def data_dtype(config: Config) -> str:
    """The kind of the values of arrays and tables; "" for data sets with values of their own."""
    data, known = config.data, source(config).dtypes
    if not known:
        columns = "label_column", "condition_columns", "attribute_columns", "caption_column"
        for field in ("dtype", *columns):
            if data[field]:
                raise ValueError(
                    f"config.data.{field} is {data[field]!r}, but {data.dataset!r} has values and "
                    "labels of its own: leave it out"
                )
        return ""
    dtype = data.dtype or known[0]
    check_name("config.data.dtype", dtype, known)
    if dtype == "float" and not data.centered:
        raise ValueError(
            "config.data.centered is False, which is for grey levels, and the data are floats, "
            "which are standardised: leave it out"
        )
    return dtype


def data_spec(config: Config) -> DataSpec:
    """The request for the data set."""
    data = config.data
    return DataSpec(
        data.dataset,
        _data_shape(config),
        data.path,
        data.cache,
        data.test_fraction,
        config.model.text == "bytes",
        data.first_frame,
        data.max_unreadable,
        data_dtype(config),
        data.label_column,
        missing(config),
        tuple(data.condition_columns),
        tuple(data.attribute_columns),
        data.caption_column,
        data.conditions,
        data.num_classes,
    )


def data_shape(config: Config) -> tuple[int, ...]:
    """The shape of one sample of the data set."""
    return data_spec(config).shape


def _data_shape(config: Config) -> tuple[int, ...]:
    """The shape of one sample.

    It is the source's own, config.data.shape, or that of square images by config.data.image_size
    and num_channels.

    Raises:
        ValueError: two of these that contradict each other, or an impossible shape.
    """
    data, of = config.data, source(config)
    fixed = of.shape or ((2,) if of.levels is None and not data.shape else ())
    shape = fixed or tuple(data.shape)
    for name in ("image_size", "num_channels"):
        if shape and sections.is_set(config, f"data.{name}"):
            what = f"{data.dataset!r} are {models.data_kind(fixed)}, not images" if fixed else ""
            raise ValueError(
                f"config.data.{name} is {data[name]!r}, but "
                f"{what or f'config.data.shape = {shape} says it too'}: leave {name} out"
            )
    if fixed and tuple(data.shape) not in ((), fixed):
        raise ValueError(
            f"config.data.shape is {tuple(data.shape)}, but a sample of {data.dataset!r} has the "
            f"shape {fixed}: leave it out"
        )
    if not 0 <= len(shape) <= 4 or not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(
            f"config.data.shape is {shape}: it must be one to four integers from 1 on, such as "
            "(D,), (L, C), (H, W, C) or (D, H, W, C)"
        )
    return shape or models.data_shape(config)


def feature_shape(config: Config) -> tuple[int, ...]:
    """The shape of samples for sample quality: floats, and other data than images, are rows."""
    shape = data_shape(config)
    return shape if len(shape) == 3 and data_dtype(config) != "float" else (math.prod(shape),)


def check_features(config: Config) -> None:
    """Raises ValueError for data whose sample quality cannot be measured."""
    shape, options = feature_shape(config), config.eval
    if len(shape) == 3:
        return
    if options.features:
        raise ValueError(
            f"config.eval.features is {options.features!r}, which is for images of grey levels: "
            "leave it out, these data are compared by their numbers"
        )
    if shape[0] > MOST_FEATURES:
        raise ValueError(
            f"sample quality compares these data by their numbers, {shape[0]:,} in a sample, and "
            f"{MOST_FEATURES:,} are the most: set config.eval.enable_sampling=False, "
            "config.training.quality_freq=0, and leave 'quality' out of training.at_end"
        )


def latent_shape(config: Config) -> tuple[int, ...]:
    """The shape of the latents of config's autoencoder."""
    factor = 2 ** (len(config.model.ch_mult) - 1)
    sides = (side // factor for side in data_shape(config)[:-1])
    return *sides, config.autoencoder.latent_channels


def _side(shape: tuple[int, ...]) -> int:
    """The side, in pixels, of a square or cubic image of as many pixels."""
    return round(math.prod(shape[:-1]) ** (1 / max(len(shape) - 1, 1)))


def transform(config: Config) -> Transform:
    """The size and kind of images that mode prepare makes."""
    options = config.prepare
    check_at_least(0, **{"config.prepare.processes": options.processes})
    check_in("(0, 1)", **{"config.data.test_fraction": config.data.test_fraction})
    names = [field.name for field in dataclasses.fields(Transform)]
    return Transform(**{name: options[name] for name in names})


def noise_model(config: Config, sde: sde_lib.SDE, shape: tuple[int, ...]) -> NoiseModel:
    """The network with its preconditioning.

    Raises:
        ValueError: a network that does not go with its labels, its data or the objective.
    """
    _check_data(config, shape)
    network = models.create(config)
    encoder: Any = getattr(network, "encoder", network)
    if isinstance(encoder, DiT):
        check_patches(shape, encoder.patch_size)
    make = MixedModel if config.latent.name == "lsgm" else NoiseModel
    make = few_steps.MODELS.get(config.objective.name, make)
    made = make(network, models.preconditioning(config, sde), missing(config))
    if config.model.name != "autoencoder":
        made.preconditioning.check(encoder)
    learned = made.preconditioning.learned_variance
    if learned != (config.objective.name in choices.VARIATIONAL):
        raise ValueError(
            f"config.model.learned_variance is {learned}, config.objective.name "
            f"{config.objective.name!r}: the variance is learned by 'hybrid' or 'vlb', and by "
            "these alone"
        )
    if learned and not isinstance(sde, sde_lib.Table):
        raise ValueError(
            "config.model.learned_variance needs the levels of DDPM's chain: set "
            "config.training.continuous=False and config.training.sde='chain' or one of "
            f"{choices.DISCRETISED}"
        )
    return made


def uses_sigma_data(config: Config) -> bool:
    """True if a component that the config chooses uses config.model.sigma_data."""
    return any(sections.get(config, field) in names for field, names in SIGMA_DATA.items())


def check_sigma_data(config: Config) -> None:
    """Raises ValueError for a config.model.sigma_data that nothing in the config uses."""
    if sections.is_set(config, "model.sigma_data") and not uses_sigma_data(config):
        users = ", ".join(f"config.{field} = {names}" for field, names in SIGMA_DATA.items())
        raise ValueError(
            f"config.model.sigma_data is {config.model.sigma_data!r}, which does nothing here: "
            f"leave it out, or choose one of {users}"
        )


def _check_data(config: Config, shape: tuple[int, ...]) -> None:
    """Raises ValueError for a network that takes no data of this shape."""
    if config.data.autoencoder and len(shape) not in models.data_axes(models.network_class(config)):
        raise ValueError(
            f"config.data.autoencoder gives latents of the shape {shape}, which are not for the "
            f"network {config.model.name!r}: leave it out"
        )
    models.check_shape(config, shape)


def adam(config: Config) -> Adam:
    """The optimizer that config.optim describes."""
    optim = config.optim
    check_name("config.optim.optimizer", optim.optimizer, OPTIMIZERS)
    fields = {field.name for field in dataclasses.fields(OPTIMIZERS[optim.optimizer])}
    values = {name: optim[name] for name in fields - {"schedule"}}
    name, options = choices.LEARNING_RATE.read(config)
    return OPTIMIZERS[optim.optimizer](**values, schedule=SCHEDULES[name](**options))


def training(config: Config) -> Training:
    """The options of training."""
    options = config.training
    own = {field.name for field in dataclasses.fields(Training)} & set(options)
    return Training(
        **{name: options[name] for name in own - {"sinks"}},
        sinks=tuple(options.sinks),
        random_flip=config.data.random_flip,
        nan_to_num=config.optim.nan_to_num,
        resident_bytes=config.data.resident_bytes,
        max_unreadable=config.data.max_unreadable,
        seed=config.seed,
        average=average(config),
        optimizer=adam(config),
    )


def average(config: Config) -> Average | PowerAverage:
    """The averages of the weights that training keeps."""
    name, options = choices.AVERAGE.read(config)
    if name == "power":
        return PowerAverage(tuple(options["lengths"]))
    sections.check_needed(config, "model", "ema_halflife", ("ema_rampup",))
    return Average(**options)


def likelihood(config: Config) -> LikelihoodOptions:
    """The options of likelihoods."""
    names = (field.name for field in dataclasses.fields(LikelihoodOptions))
    return LikelihoodOptions(**{name: config.eval[name] for name in names})


def edit(config: Config) -> Edit:
    """The edit that config.edit describes."""
    name, options = choices.EDIT.read(config)
    choices.POSTERIOR.read(config)
    check_at_least(
        2 if name == "interpolate" else 1, **{"config.edit.n_images": config.edit.n_images}
    )
    return Edit(name, **options)


def fit(config: Config) -> Fit:
    """The way in which mode edit brings images to the model's size."""
    return Fit(**{name: config.edit[name] for name in ("crop", "filter", "background")})


def labels(config: Config) -> tuple[int, ...]:
    """The classes to draw, in turn; () for all of them."""
    if config.sampling.labels and config.sampling.label != -1:
        raise ValueError("config.sampling.label and .labels are both set: leave one of them out")
    return as_labels(tuple(config.sampling.labels) or config.sampling.label)


def guidance_schedule(config: Config, sde: sde_lib.SDE) -> Schedule:
    """The schedule of the guidance's weights."""
    name, options = choices.GUIDANCE_SCHEDULE.read(config)
    made = Schedule(name, tuple(sorted(options.items())))
    made.weight(1.0, sde)  # checks its options
    return made


def augmentation(config: Config) -> float:
    """The probability of each augmentation."""
    data, model = config.data, config.model
    for name in ("random_flip", "augment"):
        if data[name] and len(data_shape(config)) != 3:
            raise ValueError(
                f"config.data.{name} is {data[name]!r}, which is for images, and the data are "
                f"{models.data_kind(data_shape(config))}: leave it out"
            )
    if not 0 <= data.augment <= 1:
        raise ValueError(
            f"config.data.augment is {data.augment}: it must be a probability, in [0, 1]"
        )
    check_at_least(0, **{"config.model.augment_dim": model.augment_dim})
    if data.augment and model.augment_dim != augment.N_LABELS:
        raise ValueError(
            f"config.model.augment_dim is {model.augment_dim}: config.data.augment has "
            f"{augment.N_LABELS} labels for the network; set it to that, or data.augment to 0"
        )
    if data.augment and data.random_flip:
        raise ValueError(
            "config.data.augment flips images already: set config.data.random_flip=False"
        )
    return data.augment


def check_traced(sampler: Any, model: NoiseModel, loss: Loss | None) -> None:
    """Raises ValueError for a sampler or a loss that does not go with the SDE, by tracing them."""
    check_kind(sampler, model)
    sde, x = model.sde, jnp.zeros((1, 2))
    score_fn: sde_lib.ScoreFn = lambda x, t: x  # noqa: E731
    if model.preconditioning.learned_variance:
        score_fn = sde_lib.ScoreAndVariance(lambda x, t: (x, x))
    if model.gives == "mean_flow":
        score_fn = sde_lib.MeanFlow(score_fn, lambda x, r, t: x)
    if model.preconditioning.name == "energy":
        score_fn = sde_lib.ScoreAndEnergy.of(lambda x, t: jnp.sum(x**2, axis=1))
    if getattr(sampler, "variance", None) == "analytic":
        stand_in = sde_lib.AnalyticVariance((0.0,), (1.0,))
        sampler = dataclasses.replace(sampler, variance=stand_in)
    key = jax.random.key(0)
    with warnings.catch_warnings(action="ignore"):  # sampling itself will warn
        jax.eval_shape(lambda key: sampler(key, sde, score_fn, x.shape), key)
    if loss is not None:
        jax.eval_shape(lambda key: loss(key, sde, score_fn, x), key)
    jax.eval_shape(model.preconditioning.network_inputs, x, jnp.ones(1))
