import jax
import numpy as np
import pytest
from tiny_configs import changed

import sde_lib
from configs import digits
from experiments.build import pipelines, tasks
from experiments.build.components import diffusion, networks
from experiments.build.fields import choices


def vp_config():
    """VP of digits by score_sde's conventions, with its sampler."""
    return changed(
        digits.get_config("vp_score_sde"),
        {"sampling.method": "predictor_corrector", "sampling.n_steps": 300},
    )


@pytest.mark.parametrize(
    ("name", "sde"),
    [
        ("edm", sde_lib.EDM()),
        ("cosine", sde_lib.Cosine()),
        ("sigmoid", sde_lib.Sigmoid()),
        ("linear", sde_lib.Linear()),
        ("log_linear", sde_lib.LogLinear()),
        ("geometric_vp", sde_lib.GeometricVP()),
        ("flow", sde_lib.LinearFlow()),
    ],
)
def test_schedules_build_with_their_published_numbers(name, sde):
    config = digits.get_config("vp_score_sde")
    config.training.sde, config.model.parametrization = name, "edm"
    assert pipelines.untrained(config).sde == sde
    config.training.continuous = config.training.importance_sampling = False
    if name in choices.DISCRETISED:
        assert diffusion.sde(config).log_snrs == tuple(sde.levels(1000))
        return
    with pytest.raises(ValueError, match="has no discrete noise levels"):
        pipelines.untrained(config)


def langevin_config():
    config = vp_config()
    config.training.sde = "cld"
    config.training.likelihood_weighting = config.training.importance_sampling = False
    return config


def test_langevin_diffusion_builds_with_its_numbers_and_twice_the_channels():
    config = langevin_config()
    config.model.cld_mass = 0.5
    assert diffusion.sde(config) == sde_lib.CLD(4.0, 0.5, 0.04)
    assert diffusion.sde(config).state_shape((1, 8, 8, 1)) == (1, 8, 8, 2)
    inputs = jax.eval_shape(tasks.task(config).init, jax.random.key(0))["Conv_0"]["kernel"]
    assert inputs.shape[2] == 2
    for method in ("predictor_corrector", "euler_maruyama", "probability_flow"):
        pipelines.untrained(changed(config, {"sampling.method": method}))
    config.sampling.method, config.sampling.grid = "symmetric_splitting", "quadratic"
    pipelines.untrained(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling.method": "heun"}, "no noise level"),
        ({"sampling.method": "dpm_adaptive"}, "no noise level"),
        ({"sampling.method": "adaptive_sde"}, "no noise level"),
        ({"sampling.method": "annealed_langevin"}, "no noise level"),
        ({"sampling.predictor": "ancestral_sampling"}, "predictor 'euler_maruyama'"),
        ({"sampling.corrector": "langevin"}, "no corrector"),
        ({"training.continuous": False}, "no discrete noise levels"),
        ({"noise_density.name": "log_normal"}, "train at t uniform"),
        ({"weighting.name": "edm"}, "train at t uniform"),
        (
            {"training.likelihood_weighting": True, "training.importance_sampling": True},
            "without importance_sampling",
        ),
        ({"model.parametrization": "edm"}, "parametrization 'score_sde', 'epsilon' or 'score'"),
        ({"model.parametrization": "v"}, "parametrization 'score_sde', 'epsilon' or 'score'"),
    ],
    ids=str,
)
def test_options_that_need_a_noise_level_are_refused_for_langevin_diffusion(changes, message):
    with pytest.raises(ValueError, match=message):
        pipelines.untrained(changed(langevin_config(), changes))


def test_discrete_training_has_the_published_levels():
    config = digits.get_config("vp_score_sde")
    config.training.continuous = False
    ddpm = sde_lib.from_betas(np.linspace(0.1, 20, 1000) / 1000)
    levels = diffusion.sde(config).levels(1000)
    np.testing.assert_allclose(levels, ddpm.levels(1000), rtol=1e-9)
    config = digits.get_config("ve")
    config.training.continuous = False
    model = config.model
    assert diffusion.sde(config) == sde_lib.VE(model.sigma_min or 0.01, model.sigma_max)
    assert diffusion.n_levels(config) == model.num_scales


CHAIN = {"training.sde": "chain", "training.continuous": False, "model.num_scales": 30}


def test_a_chain_has_the_betas_of_its_schedule():
    config = changed(digits.get_config("vp_score_sde"), CHAIN)
    assert diffusion.sde(config) == sde_lib.chain(30)
    config = changed(config, {"model.beta_schedule": "cosine", "model.zero_terminal_snr": True})
    assert diffusion.sde(config) == sde_lib.chain(30, "cosine", zero_terminal_snr=True)
    model = networks.noise_model(config, diffusion.sde(config), (8, 8, 1))
    t = np.arange(30) / np.float32(29)
    np.testing.assert_allclose(model.preconditioning.label(t), np.arange(30), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.continuous": True}, "'chain' has config.model.num_scales noise levels"),
        ({"model.beta_schedule": "cosin"}, "did you mean 'cosine'"),
        ({"model.beta_schedule": "cosine", "model.beta_end": 0.1}, "'cosine' has no such option"),
        ({"model.betas": (0.1,) * 30}, "'linear' has no such option"),
        ({"model.beta_max": 10.0}, "'chain' has no such option"),
        ({"training.sde": "vpsde", "model.beta_end": 0.1}, "'vpsde' has no such option"),
    ],
)
def test_options_of_another_chain_are_refused(changes, message):
    config = digits.get_config("vp_score_sde")
    config.update_from_flattened_dict(CHAIN | changes)
    with pytest.raises(ValueError, match=message):
        diffusion.sde(config)
