import pytest
from tiny_configs import changed

import samplers
import sde_lib
from configs import digits
from experiments.build import pipelines
from experiments.build.components import diffusion, sampling
from experiments.pipeline.edit import Edit


def test_sde_and_sampler_have_the_config_numbers():
    config = changed(digits.get_config("ve"), {"sampling.method": "predictor_corrector"})
    assert diffusion.sde(config) == sde_lib.VE(0.01, config.model.sigma_max)
    assert diffusion.sde(digits.get_config("subvp")) == sde_lib.SubVP()
    config.sampling.n_steps, config.sampling.snr = 77, 0.1
    config.sampling.corrector, config.sampling.n_steps_each = "langevin", 3
    assert sampling.sampler(config) == samplers.PredictorCorrector(77, snr=0.1, n_corrector_steps=3)
    config = changed(digits.get_config("vp_score_sde"), {"sampling.method": "probability_flow"})
    assert isinstance(sampling.sampler(config), samplers.ProbabilityFlow)
    config = changed(digits.get_config("vp_score_sde"), {"sampling.method": "euler_maruyama"})
    config.sampling.n_steps = 77
    assert sampling.sampler(config) == samplers.EulerMaruyama(77)
    config.sampling.method, config.sampling.n_steps_each = "annealed_langevin", 3
    assert sampling.sampler(config) == samplers.AnnealedLangevin(77, 3)


def test_options_of_an_edit_are_those_of_its_task():
    config = digits.get_config("vp_score_sde")
    assert sampling.edit(config) == Edit()
    config.edit.mask = "centre"
    assert sampling.edit(config) == Edit(mask="centre")
    config.edit.task = "variations"
    with pytest.raises(ValueError, match=r"mask is 'centre', .* has no such option.*'inpaint'"):
        sampling.edit(config)
    config = changed(
        digits.get_config("vp_score_sde"), {"edit.task": "interpolate", "edit.n_images": 1}
    )
    with pytest.raises(ValueError, match="n_images is 1: it must be at least 2"):
        sampling.edit(config)


def test_a_solver_makes_as_many_evaluations_as_it_is_allowed():
    config = digits.get_config("edm")
    for name, nfe in (("euler", 13), ("heun", 13), ("dpmpp_2m", 8)):
        made = sampling.solver(config, name, nfe)
        assert made.nfe == nfe
        assert made.denoise
    with pytest.raises(ValueError, match=r"heun makes 11 .* and 13 in one more, never 12"):
        sampling.solver(config, "heun", 12)
    with pytest.raises(ValueError, match="solver 'predictor_corrector' is unknown"):
        sampling.solver(config, "predictor_corrector", 12)


def test_splitting_is_a_sampler_of_langevin_diffusion():
    with pytest.raises(ValueError, match="a sampler of CLD"):
        pipelines.untrained(
            changed(digits.get_config("vp_score_sde"), {"sampling.method": "symmetric_splitting"})
        )


def test_log_densities_are_asked_for_by_one_field():
    """The last step to the estimate is left out: it would change the samples."""
    config = changed(digits.get_config("ve"), {"sampling.method": "probability_flow"})
    config.sampling.n_steps = None
    assert sampling.sampler(config).denoise
    config.sampling.log_prob, config.sampling.probe = True, "rademacher"
    assert sampling.sampler(config) == samplers.ProbabilityFlow(log_prob=True, probe="rademacher")
    config.sampling.noise_removal = True
    with pytest.raises(ValueError, match="denoise changes them: leave out one"):
        sampling.sampler(config)
