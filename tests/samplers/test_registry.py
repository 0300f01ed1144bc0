import jax
import pytest

import samplers
import sde_lib


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


@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_every_sampler_computes_in_float64_if_jax_does(name):
    steps = {"n_steps": 3} if name in samplers.FEW_STEPS else {}
    sde = sde_lib.CLD() if name == "symmetric_splitting" else sde_lib.VP()
    seen = set()

    def score_fn(x, t):
        seen.add((x.dtype.name, t.dtype.name))
        return -x

    model = sde_lib.MeanFlow(score_fn, lambda x, r, t: score_fn(x, t))
    with jax.enable_x64(True):
        shape = sde.state_shape((2, 2))
        sampler = samplers.create(name, **steps)
        draw = lambda key: sampler(key, sde, model, shape, n_frames=2)  # noqa: E731
        samples = jax.eval_shape(draw, jax.random.key(0))
    assert seen == {("float64", "float64")}
    assert {samples.x.dtype.name, samples.path.dtype.name} == {"float64"}
