import dataclasses
from functools import partial

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES
from scipy import stats

import sde_lib
from sde_lib import noise_density

SDE = sde_lib.VE(0.002, 80.0)
LOW, HIGH = np.log(0.002) + 1e-5 * np.log(80 / 0.002), np.log(80)  # from train_t_min on
U = np.linspace(0.0005, 0.9995, 1000, dtype=np.float32)

NAMES = (
    "log_uniform",
    "log_normal",
    "split_log_normal",
    "log_logistic",
    "v_diffusion",
    "cosine_interpolated",
)


def levels(name, u=U, sde=SDE, **options):
    quantile = noise_density.create(name, sde, **options)
    assert quantile is not None
    return -0.5 * np.asarray(jax.jit(quantile)(jnp.asarray(u)), np.float64)


def split_cdf(x):
    """Halves of two normals, of standard deviations 1 and 2, that meet at -1 in one density."""
    left, right = stats.norm.cdf(x, -1, 1), stats.norm.cdf(x, -1, 2)
    return np.where(x < -1, left * 2 / 3, 1 / 3 + (2 * right - 1) * 2 / 3)


@pytest.mark.parametrize(
    ("name", "options", "cdf"),
    [
        ("log_uniform", {}, lambda x: x),
        ("log_normal", {}, lambda x: stats.norm.cdf(x, -1.2, 1.2)),
        ("log_normal", {"mean": 4.0, "std": 2.0}, lambda x: stats.norm.cdf(x, 4, 2)),
        ("split_log_normal", {"mean": -1.0, "std": 1.0, "std_above": 2.0}, split_cdf),
        ("log_logistic", {"mean": 0.5, "std": 1.5}, lambda x: stats.logistic.cdf(x, 0.5, 1.5)),
        ("v_diffusion", {"sigma_data": 0.5}, lambda x: np.arctan(np.exp(x) / 0.5)),
        ("cosine_interpolated", {"sigma_data": 1.0}, lambda x: np.arctan(np.exp(x))),
    ],
)
def test_each_density_has_its_closed_form_truncated_to_the_levels_of_training(name, options, cdf):
    level, (low, high) = levels(name, **options), cdf(np.array([LOW, HIGH]))
    np.testing.assert_allclose((cdf(level) - low) / (high - low), U, atol=2e-6)


def test_large_images_have_the_high_levels_shifted():
    """The shift is u log(256 / 32); the ends stay."""
    wide = sde_lib.VE(1e-4, 1e4, train_t_min=0.0)
    cosine = levels("cosine_interpolated", sde=wide, sigma_data=1.0)
    shifted = levels("cosine_interpolated", sde=wide, sigma_data=1.0, image_size=256)
    middle = slice(50, -50)
    expected = U * np.log(8)
    np.testing.assert_allclose((shifted - cosine)[middle], expected[middle], atol=0.02)
    ends = levels("cosine_interpolated", [0.0, 1.0], wide, sigma_data=1.0, image_size=256)
    np.testing.assert_allclose(ends, np.log([1e-4, 1e4]), atol=1e-2)


def test_uniform_times_have_no_density_of_levels():
    assert noise_density.create("uniform", SDE) is None


@dataclasses.dataclass(frozen=True)
class Flow(sde_lib.SDE):
    """alpha = 1 - t, sigma = t, from the level 0 to infinity."""

    train_t_min: float = dataclasses.field(default=0.0, kw_only=True)

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


@pytest.mark.parametrize("name", NAMES)
def test_ends_of_the_unit_interval_are_levels_of_training(name):
    """The levels may span 0 to infinity."""
    ends = levels(name, [0.0, 1.0])
    assert LOW - 1e-5 < ends[0] < ends[1] < HIGH + 1e-5
    if name == "log_uniform":
        with pytest.raises(ValueError, match="from -inf to inf in training"):
            noise_density.create(name, Flow())
    else:
        assert np.isfinite(levels(name, [0.0, 1.0], Flow())).all()


def test_log_normal_levels_are_logit_normal_times_of_a_linear_flow():
    density, x0 = noise_density.create("log_normal", Flow(), 0.3, 0.9), jnp.zeros((256, 1))
    draw = jax.jit(partial(sde_lib.perturb, sde=Flow(), noise_density=density, stratified=True))
    t = np.asarray(draw(jax.random.key(0), x0=x0).t, np.float64)
    u = stats.norm.cdf(np.log(t / (1 - t)), 0.3, 0.9)
    np.testing.assert_array_equal(np.floor(u * 256), np.arange(256))


@pytest.mark.parametrize("name", SDES)
def test_strata_of_a_density_hold_one_level_each(name):
    sde = SDES[name]
    density, x0 = noise_density.create("log_normal", sde), jnp.zeros((256, 1))
    draw = jax.jit(partial(sde_lib.perturb, sde=sde, noise_density=density, stratified=True))
    t = draw(jax.random.key(0), x0=x0).t
    level = -0.5 * np.asarray(sde.log_snr(t), np.float64)
    low, high = (np.array([-0.5 * float(s) for s in noise_density.log_snrs(sde)]) + 1.2) / 1.2
    u = stats.truncnorm.cdf(level, low, high, -1.2, 1.2)
    np.testing.assert_array_equal(np.floor(u * 256), np.arange(256))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lognormal", {}, "did you mean 'log_normal'"),
        ("log_normal", {"std": 0.0}, "std of the noise density is 0.0: it must be positive"),
        ("v_diffusion", {"sigma_data": -1.0}, "sigma_data of the noise density is -1.0"),
    ],
)
def test_impossible_densities_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        noise_density.create(name, SDE, **options)


def test_log_uniform_is_the_published_importance_sampling_of_discriminators():
    """Of VP's times (Kim et al. 2023); the published float32 values are off by up to 5e-4."""
    arrays, sde = golden.load("dg_discriminator"), sde_lib.VP()
    t = sde.inverse_log_snr(noise_density.create("log_uniform", sde)(arrays["importance/u"]))
    np.testing.assert_allclose(t, arrays["importance/t"], atol=6e-4)
    ends = sde.log_snr(jnp.array([sde.train_t_min, sde.t_max]))
    np.testing.assert_allclose(ends[0] - ends[1], arrays["importance/Z"], atol=0.013)
