import jax
import numpy as np
import pytest
from closed_forms import Gaussian

import samplers
import sde_lib

KNOWN = Gaussian(0.3, 0.0)  # x_0 is one point: D is constant


@pytest.mark.thorough
def test_every_solver_reaches_known_data_along_the_same_path():
    """y / l^2 is the Brownian path itself, whatever the solver and its steps."""
    sde = sde_lib.EDM()
    multistep = ["dpmpp_2m_sde", "dpmpp_3m_sde"]
    names = ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", *multistep]

    def draw(key):
        for n, name in enumerate(names):
            sampler = samplers.create(name, n_steps=3 + n, sigma_min=0.05, denoise=False)
            yield sampler(key, sde, KNOWN.score_fn(sde), (8, 2)).x

    run = jax.jit(
        lambda key: list(draw(key)), compiler_options={"xla_backend_optimization_level": 0}
    )
    first, *others = run(jax.random.key(0))
    assert 0.03 < np.std(first) < 0.08
    for name, x in zip(names[1:], others, strict=True):
        np.testing.assert_allclose(x, first, atol=2e-6, err_msg=name)


def test_noise_is_checked():
    for name, eta in (("dpm_2_ancestral", 1.1), ("dpmpp_sde", -0.1), ("dpmpp_3m_sde", np.inf)):
        with pytest.raises(ValueError, match="eta is"):
            samplers.create(name, eta=eta)
    with pytest.raises(ValueError, match="s_noise is nan"):
        samplers.create("dpmpp_2m_sde", s_noise=np.nan)


def test_noise_is_scaled():
    """s_noise = 2 is four times the variance of known data's last level."""
    now, then = np.array([3.0]), np.array([1.0])
    for name in ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_2m_sde"):
        once, twice = (
            jax.tree.leaves(samplers.create(name, s_noise=s).plan(now, then).coefficients)
            for s in (1.0, 2.0)
        )
        scaled = [
            np.allclose(b, 2 * a) and bool(np.any(a)) for a, b in zip(once, twice, strict=True)
        ]
        assert sum(scaled) == 1, name
