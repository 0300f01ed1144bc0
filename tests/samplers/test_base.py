import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian

import samplers
import sde_lib
from samplers.base import check_noise_share

FLOW = ("ddim", "dpm_2", "dpm_adaptive", "dpm_fast", "dpm_solver", "dpmpp_2m", "dpmpp_2s", "edm")
FLOW += ("deis", "euler", "heun", "lms", "probability_flow", "unipc")
OTHERS = ("annealed_langevin", "fresh_noise", "symmetric_splitting", "predictor_corrector")
OTHERS += ("free_diffusion", "consistency", "mean_flow")


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_every_sampler_has_the_noise_share_of_its_equation(name):
    expected = 0.0 if name in FLOW else None if name in OTHERS else 1.0
    found = getattr(samplers.create(name), "noise_share", None)
    assert found == expected


def test_options_change_the_noise_share():
    flow = samplers.PredictorCorrector(9, "euler_maruyama", "none", probability_flow=True)
    assert flow.noise_share == 0
    assert samplers.PredictorCorrector(9, "euler_maruyama", "none").noise_share == 1
    assert samplers.EDM(s_churn=5.0).noise_share is None
    assert samplers.DPMpp2MSDE(eta=0.3).noise_share == 0.3


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["heun", "ddim", "euler_ancestral"])
def test_a_noise_share_of_0_is_without_noise(name):
    sde, key = sde_lib.VP(), jax.random.key
    start = samplers.Start(jnp.ones((2, 1)), 0.5)
    sampler, score_fn = samplers.create(name, n_steps=3), Gaussian().score_fn(sde)
    one, other = (sampler(key(i), sde, score_fn, (2, 1), start=start).x for i in (0, 1))
    assert np.array_equal(one, other) == (sampler.noise_share == 0)


def test_a_sampler_of_another_noise_share_is_refused():
    check_noise_share(samplers.EDM(), 0.0, "a model")
    check_noise_share(samplers.EDM(s_churn=9.0), None, "a model")
    with pytest.raises(ValueError, match=r"EDM does not sample by the probability flow"):
        check_noise_share(samplers.EDM(s_churn=9.0), 0.0, "a model")
    with pytest.raises(ValueError, match=r"does not sample by the reverse SDE .* a bridge: set"):
        check_noise_share(samplers.EDM(), 1.0, "a bridge")
