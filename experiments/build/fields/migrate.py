"""Configs of earlier versions: renamed fields, and config.json files that have them."""

from typing import Any

from experiments.build.fields import sections
from experiments.build.fields.choices import CHOICES
from experiments.runs.folder import flatten
from models.config import Config

RENAMED = {  # old field: (new field, its old default)
    "training.noise_density": ("noise_density.name", "uniform"),
    "training.noise_mean": ("noise_density.mean", -1.2),
    "training.noise_std": ("noise_density.std", 1.2),
    "training.noise_std_above": ("noise_density.std_above", 1.2),
    "training.weighting": ("weighting.name", "variance"),
    "training.weighting_bias": ("weighting.bias", 2.0),
    "training.objective": ("objective.name", "denoising"),
    "training.stratified": ("objective.stratified", False),
    "training.soft_truncation": ("objective.soft_truncation", None),
    "training.input_perturbation": ("objective.input_perturbation", 0.0),
    "training.n_projections": ("objective.n_projections", 1),
    "training.vlb_weight": ("objective.vlb_weight", 1e-3),
    "training.loss_history": ("objective.loss_history", 0),
    "sampling.cfg_weight": ("guidance.classifier_free.weight", 1.0),
    "sampling.negative_label": ("guidance.classifier_free.negative_label", -1),
    "sampling.negative_prompt": ("guidance.classifier_free.negative_prompt", ""),
    "sampling.negative_terms": ("guidance.classifier_free.negative_terms", 3),
    "sampling.classifier": ("guidance.classifier.run", ""),
    "sampling.guidance_weight": ("guidance.classifier.weight", 1.0),
    "sampling.guidance_schedule": ("guidance.schedule.name", "constant"),
    "sampling.schedule_low": ("guidance.schedule.low", None),
    "sampling.schedule_high": ("guidance.schedule.high", None),
    "sampling.schedule_least": ("guidance.schedule.least", None),
    "sampling.schedule_power": ("guidance.schedule.power", None),
    "sampling.discriminator": ("guidance.discriminator.run", ""),
    "sampling.dg_weight_1st_order": ("guidance.discriminator.weight", 1.0),
    "sampling.dg_weight_2nd_order": ("guidance.discriminator.weight_2nd_order", 0.0),
    "sampling.dg_boost": ("guidance.discriminator.boost", False),
    "sampling.dg_sigma_min": ("guidance.discriminator.sigma_min", None),
    "sampling.dg_sigma_max": ("guidance.discriminator.sigma_max", None),
    "sampling.eps_scale": ("guidance.epsilon_scaling.scale", 1.0),
    "sampling.eps_scale_slope": ("guidance.epsilon_scaling.slope", 0.0),
    "sampling.eps_scale_guided": ("guidance.epsilon_scaling.guided", False),
    "sampling.time_shift_window": ("guidance.time_shift.window", 0.0),
    "sampling.time_shift_cutoff": ("guidance.time_shift.cutoff", 0.0),
    "autoencoder.kl_weight": ("autoencoder.kl.weight", 1e-6),
    "autoencoder.codebook_size": ("autoencoder.vq.codebook_size", 512),
    "autoencoder.commitment": ("autoencoder.vq.commitment", 0.25),
    "autoencoder.perceptual": ("autoencoder.perceptual.run", ""),
    "autoencoder.perceptual_weight": ("autoencoder.perceptual.weight", 1.0),
    "autoencoder.adversarial_weight": ("autoencoder.adversarial.weight", 0.0),
    "autoencoder.adversarial_start": ("autoencoder.adversarial.start", 0),
}
OLD_SCHEDULES = {  # options that were those of one guidance schedule, and are those of all now
    "sampling.schedule_low": "interval",
    "sampling.schedule_high": "interval",
    "sampling.schedule_least": "clamp_linear",
}
OLD_STEPS = 1000  # sampling.n_steps of every method; now the predictor-corrector sampler's alone
OLD_DEFAULTS = {  # of fields that have kept their names, where None now stands for the default
    "sampling.confidence": 1.0,
    "sampling.predictor": "reverse_diffusion",
    "sampling.corrector": "none",
    "sampling.snr": 0.16,
    "sampling.noise_removal": True,
    "sampling.probability_flow": False,
    "edit.n_results": 6,
    "edit.mask": "left",
    "edit.strength": 0.3,
    "edit.n_iterations": 3,
    "model.gamma_min": -13.3,
    "model.gamma_max": 5.0,
    "model.cld_beta": 4.0,
    "model.cld_mass": 0.25,
    "model.cld_gamma": 0.04,
}


def migrate(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of an earlier version's config.json by their new full names."""
    fields, old = {}, flatten(values)
    for name, value in old.items():
        new, old_default = RENAMED.get(name, (name, OLD_DEFAULTS.get(name)))
        if name in RENAMED and value == old_default:
            continue
        if name in OLD_DEFAULTS and value == old_default:
            continue
        if name in OLD_SCHEDULES and OLD_SCHEDULES[name] != old.get("sampling.guidance_schedule"):
            continue
        fields[new] = value
    own = fields.get("sampling.method") in (None, "predictor_corrector")
    if own and fields.get("sampling.n_steps") == OLD_STEPS:
        del fields["sampling.n_steps"]
    return fields


def drop_unused(config: Config) -> None:
    """Drops the options of components that are not chosen, which earlier versions kept."""
    sections.drop_unused(config, CHOICES)
    for section, needed in (
        ("guidance.discriminator", "run"),
        ("guidance.classifier", "run"),
        ("guidance.time_shift", "window"),
        ("autoencoder.perceptual", "run"),
        ("autoencoder.adversarial", "weight"),
    ):
        if not sections.get(config, f"{section}.{needed}"):
            sections.reset(config, [f"{section}.{name}" for name in sections.get(config, section)])


def new_name(field: str) -> str | None:
    """The new name of a field that was renamed; None for others."""
    return RENAMED[field][0] if field in RENAMED else None
