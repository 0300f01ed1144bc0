"""All that config.sampling has for guiding a score function, composed."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import models
from configs import default
from experiments import build
from experiments.pipeline import conditions, scores
from experiments.runs import parts
from experiments.tasks import classifier
from experiments.training import state
from models.config import Config
from samplers import guidance
from samplers.base import Scores
from sde_lib import SDE, ScoreFn
from sde_lib.batch import Batch, PerSample
from sde_lib.checks import check_positive

Guide = Callable[[ScoreFn, Any, jax.Array], Scores]
"""guide(score_fn, parameters of the guides, indices of the samples) -> score functions"""
OF_SAMPLING = ("classifier", "discriminator", "eps_scale", "eps_scale_slope", "time_shift_window")
"""What each guide begins with in config.sampling: at its default, that guide does nothing."""
LogRatio = Callable[[Any, Batch, PerSample], PerSample]
"""log_ratio(parameters, x, t): [B]"""


def load(config: Config, sde: SDE, params: Any) -> tuple[Guide, Any]:
    """What config.sampling makes of a score, and the parameters that this takes.

    First the model's own errors are seen to: by time_shift, epsilon_scaling and the discriminator,
    the last two the other way round with eps_scale_guided. Then the classifier adds its gradient.
    What config.sampling leaves out changes nothing.

    Args:
        config: of the model to be guided.
        params: of that model, whose samples the discriminator must know.

    Raises:
        ValueError: a folder without such a guide, or one of other noise or data.
    """
    log_prob, log_ratio, guide_params = None, None, {}
    if config.sampling.classifier:
        log_prob, guide_params["classifier"] = load_classifier(config, sde)
    if config.sampling.discriminator:
        log_ratio, guide_params["discriminator"] = load_discriminator(config, sde, params)
    return _composed(config, sde, log_prob, log_ratio), guide_params


def check(config: Config) -> None:
    """Raises ValueError for what no guide can do, before anything is loaded."""
    options, sde = config.sampling, build.make_sde(config)

    def named(*names: str) -> dict[str, Any]:
        return {f"config.sampling.{name}": options[name] for name in names}

    check_positive(**named("eps_scale", "dg_sigma_min", "dg_sigma_max"))
    check_positive(or_zero=True, **named("dg_weight_1st_order", "dg_weight_2nd_order"))
    check_positive(or_zero=True, **named("guidance_weight", "time_shift_window"))
    check_positive(or_zero=True, **named("time_shift_cutoff"))
    plain = default.get_config().sampling
    for name in ("time_shift_window", "discriminator", "guidance_schedule"):
        if options[name] != plain[name] and not sde.is_scalar:
            raise ValueError(
                f"config.sampling.{name} goes by a noise level, which config.training.sde = "
                f"{config.training.sde!r} has not: leave it out"
            )
    guided = scores.is_guided(config) or any(options[name] != plain[name] for name in OF_SAMPLING)
    if options.variance == "learned" and guided:
        raise ValueError(
            "config.sampling.variance = 'learned' is of the model's own steps, not of guided ones: "
            "take 'posterior', or leave out the guidance"
        )
    last = options.eps_scale + options.eps_scale_slope * sde.t_max
    check_positive(**{f"config.sampling's eps_scale + {sde.t_max:g} eps_scale_slope": last})
    corrected(config, sde, lambda x, t: x, lambda x, t: t, 1.0, 1.0)
    for prefix, guide, what in (
        ("dg_", "discriminator", "the folder of one"),
        ("time_shift_cutoff", "time_shift_window", "a positive one"),
    ):
        for name in options:
            unused = name.startswith(prefix) and options[name] != plain[name]
            if unused and not options[guide]:
                raise ValueError(
                    f"config.sampling.{name} is {options[name]}, which does nothing without "
                    f"config.sampling.{guide}: give {what}, or leave it out"
                )
    for name in ("class_conditional", "text", "low_res_size"):
        if options.discriminator and config.model[name]:
            raise ValueError(
                "config.sampling.discriminator knows data alone, but the model is told more of "
                f"them (config.model.{name}): it would guide to data of all kinds"
            )


def check_sampler(config: Config) -> None:
    """Raises ValueError if config.sampling's method cannot weigh a discriminator as it says."""
    options, sampler = config.sampling, build.make_sampler(config)
    alike = options.dg_weight_1st_order == options.dg_weight_2nd_order
    if options.discriminator and not alike and not getattr(sampler, "takes_tuple", False):
        raise ValueError(
            f"config.sampling.method = {options.method!r} does not tell the first evaluation of a "
            "step from the others: take 'edm', 'heun' or another solver of noise levels, or the "
            "same config.sampling.dg_weight_1st_order and dg_weight_2nd_order"
        )


def refuse(config: Config, mode: str) -> None:
    """Raises ValueError for guides in config.sampling, of which a mode makes no use."""
    plain = default.get_config().sampling
    for name in OF_SAMPLING:
        if config.sampling[name] != plain[name]:
            raise ValueError(f"config.sampling.{name} guides samples: leave it out of mode {mode}")


def _composed(
    config: Config,
    sde: SDE,
    log_prob: Callable[..., PerSample] | None,
    log_ratio: LogRatio | None,
) -> Guide:
    options = config.sampling

    def guide(score_fn, params, indices):
        ratio = partial(log_ratio, params["discriminator"]) if log_ratio else None
        b = guidance.linear(options.eps_scale_slope, options.eps_scale)
        shift = options.time_shift_window, options.time_shift_cutoff
        score_fn = guidance.time_shift(score_fn, sde, *shift)
        result = corrected(config, sde, score_fn, ratio, options.dg_weight_1st_order, b)
        if log_prob:
            weight = scores.schedule(config, sde, options.guidance_weight, outside=0.0)
            given = partial(log_prob, params["classifier"], indices)
            guided = partial(guidance.gradient, log_prob=given, weight=weight)
            result = jax.tree.map(guided, result)
        return result

    return guide


def corrected(
    config: Config,
    sde: SDE,
    score_fn: ScoreFn,
    log_ratio: Callable[[Batch, PerSample], PerSample] | None,
    weight: guidance.Weight,
    b: guidance.Weight,
) -> Scores:
    """Scaled by b and, by a discriminator, guided with a weight, in config.sampling's order."""
    options = config.sampling

    def scale(score_fn: ScoreFn) -> ScoreFn:
        return guidance.epsilon_scaling(score_fn, b)

    def guide(score_fn: ScoreFn) -> Scores:
        if log_ratio is None:
            return score_fn
        own = options.dg_sigma_min, options.dg_sigma_max, options.dg_boost
        later = options.dg_weight_2nd_order
        return guidance.discriminator(score_fn, sde, log_ratio, weight, later, *own)

    if options.eps_scale_guided:
        return jax.tree.map(scale, guide(score_fn))
    return guide(scale(score_fn))


def load_classifier(config: Config, sde: SDE) -> tuple[Callable[..., PerSample], Any]:
    """log_prob(params, indices, x, t): [B], of config.sampling.classifier; and its parameters.

    config.sampling.label is the class of all samples; with -1, sample i is of class i modulo their
    number.

    Raises:
        ValueError: the folder's model is no classifier, or not one of this noise and data, or
            without the class.
    """
    folder = Path(config.sampling.classifier)
    theirs = state.load_related_config(config, folder, "classifier")
    if not models.is_classifier(theirs) or models.is_discriminator(theirs):
        raise ValueError(f"{folder} holds the model {theirs.model.name!r}: that is no classifier")
    n_classes = theirs.data.num_classes
    scores.check_label(config, n_classes)
    model, params, _ = state.load(theirs, folder)

    def log_prob(params: Any, indices: jax.Array, x: Batch, t: PerSample) -> PerSample:
        labels = conditions.classes_in_turn(config.sampling.label, n_classes, indices)
        log_probs = nn.log_softmax(classifier.logits_fn(theirs, sde, model, params)(x, t))
        return jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]

    return log_prob, params


def load_discriminator(config: Config, sde: SDE, params: Any) -> tuple[LogRatio, Any]:
    """log_ratio(params, x, t): [B], of config.sampling.discriminator; and its parameters.

    The logarithm of the densities of data over samples at x_t = x: the difference of its logits,
    without the log odds of the two in its training.

    Raises:
        ValueError: the folder's model is no discriminator, or not one of this noise and data, or
            one of the samples of another model than that of params.
    """
    folder = Path(config.sampling.discriminator)
    theirs = state.load_related_config(config, folder, "discriminator")
    if not models.is_discriminator(theirs):
        raise ValueError(
            f"config.sampling.discriminator, {folder}, holds the model {theirs.model.name!r}: give "
            "the folder of a trained discriminator (README.md, Guidance)"
        )
    path, ours = folder / "generated.json", parts.digest(params)
    about = json.loads(path.read_text()) if path.exists() else {"model": "none", "step": 0}
    if about["model"] != ours:
        raise ValueError(
            f"the discriminator in {folder} knows samples of the model {about['model']}, at step "
            f"{about['step']}; the one to be guided is {ours}, another or at another step. Make "
            "samples of it by --mode=generate, and train a discriminator of them"
        )
    model, weights, _ = state.load(theirs, folder)

    def log_ratio(params: Any, x: Batch, t: PerSample) -> PerSample:
        logits = classifier.logits_fn(theirs, sde, model, params)(x, t)
        return logits[:, 1] - logits[:, 0] - about["log_odds"]

    return log_ratio, weights
