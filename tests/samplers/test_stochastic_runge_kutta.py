import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian

import samplers
import sde_lib

DATA = Gaussian()
SDE = sde_lib.EDM()
END = {"sigma_min": 0.1, "denoise": False}


calls = []


@functools.partial(
    jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0}
)
def _draw(sampler, first_index, factor):
    score_fn = DATA.score_fn(SDE)

    def counted(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return factor * score_fn(x, t)

    return sampler(jax.random.key(0), SDE, counted, (150, 2), first_index, n_frames=3)


def draw(sampler, first_index=0, factor=1.0):
    return _draw(sampler, first_index, factor)


@functools.cache
def finest():
    return draw(samplers.StochasticRungeKutta(160, **END))


def rms(a, b):
    return float(jnp.sqrt(jnp.mean((a - b) ** 2)))


@pytest.mark.thorough
def test_strong_order_and_the_same_path_at_every_step_count():
    errors = [rms(draw(samplers.StochasticRungeKutta(n, **END)).x, finest().x) for n in (20, 40)]
    assert errors[0] < 0.02
    assert np.log2(errors[0] / errors[1]) > 1.4  # 1.5 at least, for additive noise


@pytest.mark.thorough
def test_the_samples_have_the_moments_of_the_data():
    np.testing.assert_allclose(jnp.mean(finest().x), DATA.mean, atol=0.12)
    np.testing.assert_allclose(jnp.std(finest().x), np.hypot(DATA.std, 0.1), rtol=0.12)


@pytest.mark.thorough
def test_a_sample_is_the_same_in_any_batch():
    sampler = samplers.StochasticRungeKutta(20, **END)
    np.testing.assert_allclose(draw(sampler, 1).x[:-1], draw(sampler).x[1:], atol=1e-5)


@pytest.mark.thorough
def test_adaptive_steps_follow_the_same_path_to_tolerance():
    sampler = samplers.AdaptiveSDE(**END)
    samples, shifted = draw(sampler), draw(sampler, 1)
    assert rms(samples.x, finest().x) < 0.02
    np.testing.assert_allclose(shifted.x[:-1], samples.x[1:], atol=0.05)
    assert 20 < samples.nfe < 400
    np.testing.assert_array_equal(samples.path[-1], samples.x)
    # Frames are at even intervals in log level, of both.
    np.testing.assert_allclose(
        jnp.std(samples.path, (1, 2)), jnp.std(finest().path, (1, 2)), rtol=0.1
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    "sampler", [samplers.StochasticRungeKutta(20, **END), samplers.AdaptiveSDE(**END)]
)
def test_nfe_is_the_number_of_evaluations_really_made(sampler):
    calls.clear()
    samples = jax.block_until_ready(draw(sampler))
    jax.effects_barrier()
    assert int(samples.nfe) == len(calls)


@pytest.mark.thorough
def test_a_score_that_is_not_finite_ends_with_nan():
    assert jnp.isnan(draw(samplers.AdaptiveSDE(**END), 0, jnp.nan).x).all()


def test_options_are_checked():
    with pytest.raises(ValueError, match="both must be in"):
        samplers.AdaptiveSDE(rtol=0.0)
    with pytest.raises(ValueError, match="eta is -1"):
        samplers.AdaptiveSDE(eta=-1)
    with pytest.raises(ValueError, match="grid 'kerras' is unknown"):
        samplers.StochasticRungeKutta(grid="kerras")
