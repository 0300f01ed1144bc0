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


@functools.partial(
    jax.jit, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 0}
)
def draw(sampler, n_frames, first_index=0):
    return sampler(
        jax.random.key(0), SDE, DATA.score_fn(SDE), (400, 2), first_index, n_frames=n_frames
    )


@functools.cache
def finest():
    return draw(samplers.StochasticRungeKutta(300, **END), 3)


def rms(a, b):
    return float(jnp.sqrt(jnp.mean((a - b) ** 2)))


def test_strong_order_and_the_same_path_at_every_step_count():
    errors = [rms(draw(samplers.StochasticRungeKutta(n, **END), 3).x, finest().x) for n in (30, 60)]
    assert errors[0] < 0.01
    assert np.log2(errors[0] / errors[1]) > 1.4  # 1.5 at least, for additive noise


def test_the_samples_have_the_moments_of_the_data():
    np.testing.assert_allclose(jnp.mean(finest().x), DATA.mean, atol=0.08)
    np.testing.assert_allclose(jnp.std(finest().x), np.hypot(DATA.std, 0.1), rtol=0.08)


def test_a_sample_is_the_same_in_any_batch():
    sampler = samplers.StochasticRungeKutta(30, **END)
    np.testing.assert_allclose(draw(sampler, 3, 1).x[:-1], draw(sampler, 3, 0).x[1:], atol=1e-5)


def test_adaptive_steps_follow_the_same_path_to_tolerance():
    sampler = samplers.AdaptiveSDE(**END)
    samples, shifted = draw(sampler, 3, 0), draw(sampler, 3, 1)
    assert rms(samples.x, finest().x) < 0.02
    np.testing.assert_allclose(shifted.x[:-1], samples.x[1:], atol=0.05)
    assert 20 < samples.nfe < 400
    np.testing.assert_array_equal(samples.path[-1], samples.x)
    # Frames are at even intervals in log level, of both.
    np.testing.assert_allclose(
        jnp.std(samples.path, (1, 2)), jnp.std(finest().path, (1, 2)), rtol=0.1
    )


@pytest.mark.parametrize(
    "sampler", [samplers.StochasticRungeKutta(4), samplers.AdaptiveSDE(1.0, 1.0)]
)
def test_nfe_is_the_number_of_evaluations_really_made(sampler):
    calls = []

    def score_fn(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return -x / (1 + t[:, None] ** 2)

    samples = sampler(jax.random.key(0), SDE, score_fn, (2, 2))
    jax.effects_barrier()
    assert int(samples.nfe) == len(calls)


def test_a_score_that_is_not_finite_ends_with_nan():
    samples = samplers.AdaptiveSDE()(
        jax.random.key(0), SDE, lambda x, t: jnp.full_like(x, jnp.nan), (2, 2)
    )
    assert jnp.isnan(samples.x).all()


def test_options_are_checked():
    with pytest.raises(ValueError, match="both must be positive"):
        samplers.AdaptiveSDE(rtol=0.0)
    with pytest.raises(ValueError, match="eta is -1"):
        samplers.AdaptiveSDE(eta=-1)
    with pytest.raises(ValueError, match="grid 'kerras' is unknown"):
        samplers.StochasticRungeKutta(grid="kerras")
