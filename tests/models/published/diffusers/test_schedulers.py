import numpy as np
import pytest

import sde_lib
from configs.default import get_config
from experiments.build.components import diffusion, sampling
from experiments.runs.folder import flatten
from models.published.diffusers import schedulers


def config_of(fields):
    config = get_config()
    config.update_from_flattened_dict(fields)
    return config


def fields_of(name, **options):
    return schedulers.fields({"_class_name": f"{name}Scheduler", **options})


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("DDPM", {}, {"method": "ddpm", "n_steps": 1000, "variance": "posterior"}),
        ("DDPM", {"variance_type": "fixed_large"}, {"variance": "beta"}),
        ("DDIM", {}, {"method": "ddim", "clip": 1.0, "grid": "leading"}),
        ("DDIM", {"num_train_timesteps": 20}, {"n_steps": 20}),
        ("DDIM", {"set_alpha_to_one": False}, {"noise_removal": False}),
        ("PNDM", {"skip_prk_steps": True}, {"method": "lms", "noise_removal": False}),
        ("EulerDiscrete", {}, {"method": "euler", "grid": "linspace"}),
        ("EulerDiscrete", {"use_karras_sigmas": True}, {"grid": "karras"}),
        ("EulerAncestralDiscrete", {}, {"method": "euler_ancestral"}),
        ("HeunDiscrete", {"timestep_spacing": "trailing"}, {"method": "heun", "grid": "trailing"}),
        ("LMSDiscrete", {}, {"method": "lms"}),
        ("DPMSolverMultistep", {}, {"method": "dpmpp_2m"}),
        ("DPMSolverMultistep", {"algorithm_type": "dpmsolver"}, {"method": "dpm_solver"}),
        (
            "UniPCMultistep",
            {"solver_order": 3, "solver_type": "bh1"},
            {"method": "unipc", "order": 3, "variant": "bh1"},
        ),
    ],
)
def test_schedulers_become_samplers(name, options, expected):
    fields = fields_of(name, **options)
    for option, value in expected.items():
        assert fields[f"sampling.{option}"] == value
    sampler = sampling.sampler(config_of(fields))
    assert sampler.n_steps == fields["sampling.n_steps"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, sde_lib.chain(1000)),
        ({"beta_schedule": "squaredcos_cap_v2"}, sde_lib.chain(1000, "cosine")),
        (
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
            sde_lib.chain(1000, "scaled_linear", beta_start=0.00085, beta_end=0.012),
        ),
        ({"trained_betas": [0.1, 0.2]}, sde_lib.from_betas([0.1, 0.2])),
        ({"rescale_betas_zero_snr": True}, sde_lib.chain(1000, zero_terminal_snr=True)),
    ],
)
def test_betas_become_the_sde_and_go_back(options, expected):
    fields = fields_of("DDPM", prediction_type="v_prediction", **options)
    config = config_of(fields)
    sde = diffusion.sde(config)
    assert sde == expected
    assert fields["model.parametrization"] == "v"
    written = schedulers.write(flatten(config.to_dict()))
    assert schedulers.fields(written) == fields


def test_heun_has_betas_of_its_own_and_no_clipping():
    fields = fields_of("HeunDiscrete")
    assert fields["model.beta_start"] == 0.00085
    assert "guidance.clip.limit" not in fields
    assert fields_of("DDPM", clip_sample_range=2)["guidance.clip.limit"] == 2.0


def test_ve_becomes_the_published_predictor_corrector_and_goes_back():
    fields = fields_of("ScoreSdeVe", sigma_max=348.0, snr=0.075)
    config = config_of(fields)
    sde = diffusion.sde(config)
    assert sde == sde_lib.VE(0.01, 348.0)
    sampler = sampling.sampler(config)
    assert (sampler.n_steps, sampler.snr, sampler.corrector) == (2000, 0.075, "langevin")
    written = schedulers.write(flatten(config.to_dict()))
    assert schedulers.fields(written) == fields


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("FlowMatchEulerDiscrete", {}, "FlowMatchEulerDiscreteScheduler has no counterpart"),
        ("DDPM", {"beta_schedule": "exp"}, "beta_schedule = 'exp', which has no counterpart"),
        ("DDPM", {"variance_type": "learned"}, "variance_type = 'learned', which"),
        ("DDPM", {"prediction_type": "flow_prediction"}, "prediction_type = 'flow_prediction'"),
        ("DDPM", {"thresholding": True}, "thresholding = True"),
        ("EulerDiscrete", {"use_beta_sigmas": True}, "use_beta_sigmas = True"),
        ("DDIM", {"timestep_spacing": "log"}, "timestep_spacing = 'log'"),
    ],
)
def test_what_has_no_counterpart_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        fields_of(name, **options)


@pytest.mark.parametrize(
    "fields",
    [
        {"training.sde": "edm", "model.parametrization": "edm"},
        {
            "training.sde": "chain",
            "training.continuous": False,
            "model.parametrization": "velocity",
        },
        {"training.sde": "subvpsde"},
        {"training.sde": "vesde", "training.continuous": False},
    ],
)
def test_noise_that_diffusers_does_not_have_is_not_written(fields):
    fields = flatten(get_config().to_dict()) | fields
    with pytest.raises(ValueError, match="diffusers has no scheduler for"):
        schedulers.write(fields)


@pytest.mark.thorough
@pytest.mark.parametrize("fields", [{}, {"training.continuous": False}])
def test_a_vp_becomes_a_chain(fields):
    """DDPM's own in discrete training, otherwise one through the times of the labels 0 to 999."""
    config = config_of(fields)
    written = schedulers.write(flatten(config.to_dict()))
    assert written["prediction_type"] == "epsilon"
    assert ("trained_betas" in written) == (not fields)
    again = diffusion.sde(config_of(schedulers.fields(written)))
    t = np.arange(1000) / 999
    ours, theirs = diffusion.sde(config).log_snr(t[1:]), again.log_snr(t[1:])
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


def test_a_discrete_schedule_has_the_betas_of_its_chain():
    fields = {"training.sde": "cosine", "training.continuous": False, "model.num_scales": 50}
    written = schedulers.write(flatten(get_config().to_dict()) | fields)
    betas = np.asarray(written["trained_betas"])
    np.testing.assert_allclose(betas, sde_lib.chains.cosine(50), rtol=1e-6)


@pytest.mark.parametrize("name", schedulers.CONTINUOUS)
def test_every_sde_of_the_labels_is_a_chain(name):
    fields = flatten(get_config().to_dict()) | {"training.sde": name}
    betas = np.asarray(schedulers.write(fields)["trained_betas"])
    assert len(betas) == 1000
    assert ((betas > 0) & (betas < 1)).all()
