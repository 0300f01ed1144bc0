import pytest
from tiny_configs import changed

from configs import digits, points
from experiments.build import tasks


def vp_config():
    """VP of digits by score_sde's conventions, with its sampler."""
    return changed(
        digits.get_config("vp_score_sde"),
        {"sampling.method": "predictor_corrector", "sampling.n_steps": 300},
    )


@pytest.mark.parametrize("module", [digits, points])
def test_every_config_builds(module):
    kinds = {"classifier": "Classifier", "edm_classifier": "Classifier"}
    kinds |= {"lsgm": "JointModel", "indm": "JointModel"}
    kinds |= {"consistency": "Consistency", "meanflow": "MeanFlow"}
    for variant in module.VARIANTS:
        if variant != "discriminator":  # which needs samples of another run
            made = tasks.task(module.get_config(variant))
            assert type(made).__name__ == kinds.get(variant, "ScoreModel")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("training.sde", "vpsd", "did you mean 'vpsde'"),
        ("sampling.method", "predictor_corector", "did you mean 'predictor_corrector'"),
        ("sampling.predictor", "reverse", "predictor 'reverse' is unknown"),
        ("sampling.n_steps", 15, "more than 20 steps"),
        ("model.beta_max", 0.05, "needs 0 < beta_min < beta_max"),
        ("model.ema_rate", 1.0, "must be in"),
        ("model.ema_halflife", -1.0, "ema_halflife is -1.0: it must be 0 or more"),
        ("model.ema_rampup", -0.1, "ema_rampup is -0.1, which does nothing without config.model.e"),
        ("objective.input_perturbation", -0.1, "perturbation is -0.1: it must be at least 0"),
        ("model.label_dropout", 1.5, "label_dropout is 1.5: it must be a probability"),
        ("model.label_dropout", 0.1, "needs config.model.class_conditional=True"),
        ("model.label_confidence", True, "needs config.model.class_conditional=True"),
        ("data.confidence", "folder", "needs config.model.label_confidence=True"),
        ("data.augment", -0.1, "data.augment is -0.1: it must be a probability"),
        ("data.augment", 0.1, "augment_dim is 0: config.data.augment has 9 labels"),
        ("noise_density.name", "lognormal", "did you mean 'log_normal'"),
        ("noise_density.name", "log_normal", "a noise density of its own"),
        ("noise_density.std", 0.5, "'uniform' has no such option"),
        ("weighting.name", "min-snr", "did you mean 'min_snr'"),
        ("weighting.name", "edm", "a weighting of its own"),
        ("weighting.bias", 1.0, "'variance' has no such option"),
        ("optim.lr", 0.0, "must be positive"),
        ("optim.optimizer", "SGD", "'SGD' is unknown"),
        ("optim.schedule", "inverse", "did you mean 'inverse_sqrt'"),
        ("optim.decay_start", 100, "'constant' has no such option"),
        ("training.batch_size", 0, "config.training.batch_size is 0"),
        ("training.continuous", False, "leave it out at n_levels"),
        ("eval.probe", "gausian", "did you mean 'gaussian'"),
        ("eval.rtol", 0.0, "config.eval.rtol is 0.0"),
        ("eval.n_repeats", 0, "config.eval.n_repeats is 0"),
        ("model.scale_by_sigma", True, "VE's convention"),
        ("model.name", "ncsnv2_64", "knows discrete levels only"),
        ("training.sde", "cosin", "did you mean 'cosine'"),
        ("training.sde", "edm", "cannot tell sigmas apart"),
        ("model.text", "bites", "did you mean 'bytes'"),
        ("model.parametrization", "epsilom", "did you mean 'epsilon'"),
        ("model.sigma_data", 0.0, "config.model.sigma_data is 0.0"),
        ("objective.name", "sliced_rv", "did you mean 'sliced_vr'"),
        ("objective.soft_truncation", -1.0, "soft_truncation is -1.0"),
        ("objective.n_projections", 2, "'denoising' has no such option"),
        ("model.learned_schedule", True, "here they are 'denoising' and 'vpsde'"),
        ("objective.name", "vdn", "did you mean 'vdm'"),
        ("objective.name", "vdm", "set config.data.uniform_dequantization=False"),
        ("data.dataset", "digit", "did you mean 'digits'"),
    ],
)
def test_impossible_values_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        tasks.task(changed(vp_config(), {field: value}))
