import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES

import sde_lib
from sde_lib import weighting
from sde_lib.batch import expand

LEVEL = np.geomspace(1e-3, 1e3, 25)
SNR = LEVEL**-2.0


def weights(name, **options):
    fn = weighting.create(name, **options)
    assert fn is not None
    return np.asarray(fn(jnp.asarray(np.log(SNR))), np.float64)


@pytest.mark.parametrize(
    ("name", "options", "of_x0"),
    [
        ("x0", {}, np.ones_like(SNR)),
        ("v", {}, SNR + 1),
        ("velocity", {}, (1 / LEVEL + 1) ** 2),
        ("edm", {"sigma_data": 0.3}, (LEVEL**2 + 0.3**2) / (LEVEL * 0.3) ** 2),
        ("min_snr", {}, np.minimum(SNR, 5)),
        ("soft_min_snr", {"sigma_data": 0.5}, 1 / (LEVEL**2 + 0.25)),
        ("truncated_snr", {}, np.maximum(SNR, 1)),
        ("sigmoid", {"bias": -1.0}, SNR / (1 + np.e * SNR)),
    ],
)
def test_on_the_error_of_x0_each_is_as_published(name, options, of_x0):
    np.testing.assert_allclose(weights(name, **options) * SNR, of_x0, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("ve", "edm"), ("vp", "edm"), ("subvp", "edm"), ("vp", "x0"), ("subvp", "velocity")],
)
def test_the_loss_is_the_plain_one_of_what_the_weighting_is_named_after(name, chosen):
    """The network's error is `off`: in x_0, in EDM's F (D = c_skip y + c_out F), or in z - x_0.

    A score that is off from -z / sigma by off / c has a noise that is off by sigma off / c.
    """
    sde, data = type(SDES[name])(train_t_min=0.01), 0.5
    x0, off = jnp.zeros((64, 3)), jnp.array([0.3, -0.2, 0.1])

    def score_fn(x, t):
        level = sde.sigma(t) / sde.alpha(t)
        x0_off = {
            "x0": jnp.ones_like(level),
            "edm": level * data / jnp.sqrt(level**2 + data**2),  # c_out
            "velocity": level / (1 + level),
        }[chosen]
        # x_0 = 0: x is all noise, x = sigma z.
        return -x / expand(sde.sigma(t), x) ** 2 + off * expand(x0_off / level / sde.sigma(t), x)

    options = {"weighting": weighting.create(chosen, sigma_data=data), "reduce_mean": True}
    loss_fn = jax.jit(
        lambda key: sde_lib.denoising_score_matching(key, sde, score_fn, x0, **options)
    )
    loss, metrics = loss_fn(jax.random.key(0))
    np.testing.assert_allclose(loss, np.mean(np.square(off)), rtol=1e-3)
    assert np.ptp(metrics["error"]) > 0.01


def test_variance_is_the_loss_without_a_weighting():
    assert weighting.create("variance") is None


def test_impossible_weightings_are_refused():
    with pytest.raises(ValueError, match="did you mean 'min_snr'"):
        weighting.create("minsnr")
    with pytest.raises(ValueError, match=r"sigma_data of the weighting is 0\.0"):
        weighting.create("edm", sigma_data=0.0)
