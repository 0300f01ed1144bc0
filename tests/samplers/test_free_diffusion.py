import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian

import sde_lib
from samplers import DPMpp2MSDE, FreeDiffusion
from samplers.free_diffusion import DIFFUSIONS

SDE, N = sde_lib.LinearFlow(), 4000
T = np.linspace(0.05, 0.95, 7)
NAMED = {"constant": 1 + 0 * T, "sigma": T, "sine": np.sin(np.pi * T) ** 2, "bump": T * (1 - T)}


def drawn(sampler, n=N):
    draw = jax.jit(lambda key: sampler(key, SDE, Gaussian().score_fn(SDE), (n, 1)).x)
    return np.asarray(draw(jax.random.key(0)))


@pytest.mark.parametrize("name", DIFFUSIONS)
def test_names_are_of_the_diffusion_of_the_linear_flow(name):
    eta = DIFFUSIONS[name](np.asarray(SDE.noise_level(T), np.float64))
    np.testing.assert_allclose(eta * SDE.diffusion(T) ** 2, NAMED[name], rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["constant", "sine"])
def test_samples_are_those_of_the_data_whatever_the_diffusion(name):
    x = drawn(FreeDiffusion(n_steps=60, diffusion=name, eta=0.5, grid="log_snr"))
    assert abs(x.mean() - Gaussian().mean) < 0.04
    assert abs(x.std() - Gaussian().std) < 0.04


@pytest.mark.thorough
def test_a_constant_eta_is_that_of_the_solver_of_the_reverse_sde():
    own = drawn(FreeDiffusion(n_steps=9, diffusion=np.ones_like), 8)
    np.testing.assert_allclose(own, drawn(DPMpp2MSDE(n_steps=9), 8), rtol=1e-5)


@pytest.mark.thorough
def test_noise_that_is_negative_or_unknown_is_refused():
    with pytest.raises(ValueError, match="did you mean 'sigma'"):
        FreeDiffusion(diffusion="sigme")
    sampler = FreeDiffusion(diffusion=lambda level: 1 - level)
    with pytest.raises(ValueError, match=r"diffusion gives eta from -[0-9.e+]* to 0\.99"):
        sampler(jax.random.key(0), SDE, lambda x, t: -x, jnp.zeros((2, 1)).shape)
