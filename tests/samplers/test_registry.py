import pytest

import samplers


def test_create_makes_every_sampler_by_name():
    assert samplers.create("euler_maruyama", n_steps=7) == samplers.EulerMaruyama(7)
    assert samplers.create("predictor_corrector", snr=0.1) == samplers.PredictorCorrector(snr=0.1)
    assert samplers.create("annealed_langevin", n_levels=9) == samplers.AnnealedLangevin(9)
    assert samplers.create("probability_flow", rtol=1e-3) == samplers.ProbabilityFlow(1e-3)


def test_unknown_names_and_options_are_refused_with_the_near_one():
    with pytest.raises(ValueError, match="did you mean 'probability_flow'"):
        samplers.create("probabilty_flow")
    with pytest.raises(ValueError, match="did you mean 'n_steps'"):
        samplers.create("predictor_corrector", n_step=5)
