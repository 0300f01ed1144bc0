import numpy as np
import pytest
from exact import SDES

import sde_lib
from samplers.noise_levels import check_grid, leading_time, levels_at, noise_levels

EDM = SDES["edm"]


def grid(name, n=18, sde=EDM, high=80.0, low=0.002, rho=None, denoise=True):
    return noise_levels(sde, name, high, low, n, rho, denoise)


def test_karras_levels_are_even_in_their_root():
    """Karras et al. 2022, Eq. 5."""
    levels = grid("karras")
    assert levels.dtype == np.float64
    np.testing.assert_allclose(levels[[0, 1, -1]], [80, 57.585985, 0.002], rtol=1e-8)
    steps = np.diff(levels ** (1 / 7))
    np.testing.assert_allclose(steps, (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 17, rtol=1e-12)
    np.testing.assert_allclose(np.diff(grid("karras", rho=1.0)), (0.002 - 80) / 17, rtol=1e-12)


@pytest.mark.parametrize("name", ["exponential", "log_snr"])
def test_exponential_levels_have_one_ratio(name):
    levels = grid(name, 5)
    np.testing.assert_allclose(levels, 80 * (0.002 / 80) ** (np.arange(5) / 4), rtol=1e-13)


def test_polyexponential_levels_are_dense_at_little_noise():
    np.testing.assert_allclose(grid("polyexponential"), grid("exponential"), rtol=1e-12)
    way = np.log(grid("polyexponential", 5, rho=2.0) / 0.002) / np.log(80 / 0.002)
    np.testing.assert_allclose(way, np.array([16, 9, 4, 1, 0]) / 16, atol=1e-13)


@pytest.mark.parametrize("name", ["vp", "flow", "edm"])
def test_times_are_even_and_their_roots(name):
    sde = SDES[name]
    high, low = levels_at(sde, [0.9 * sde.t_max, 0.1 * sde.t_max])
    uniform, quadratic = (grid(of, 5, sde, high, low) for of in ("uniform", "quadratic"))
    t = np.linspace(0.9, 0.1, 5) * sde.t_max
    np.testing.assert_allclose(uniform, levels_at(sde, t), rtol=1e-5)
    t = np.linspace(0.9**0.5, 0.1**0.5, 5) ** 2 * sde.t_max
    np.testing.assert_allclose(quadratic, levels_at(sde, t), rtol=1e-5)


@pytest.mark.thorough
def test_ddim_strides_through_the_levels_of_the_chain():
    """DDPM's 1000 betas in 10 strides: levels 999, 899, ..., 99, counted from 0."""
    betas = np.linspace(1e-4, 0.02, 1000)
    sde, alpha2 = sde_lib.from_betas(betas), np.cumprod(1 - betas)
    chain = np.sqrt((1 - alpha2) / alpha2)
    high, low = levels_at(sde, [sde.t_max, sde.t_min])
    np.testing.assert_allclose(grid("ddim", 10, sde, high, low), chain[999::-100], rtol=1e-5)
    whole = grid("ddim", 11, sde, high, low, denoise=False)
    np.testing.assert_array_equal(whole, grid("uniform", 11, sde, high, low))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "n", "places"),
    [
        ("leading", 10, np.arange(900, -1, -100)),
        ("leading", 7, 142 * np.arange(6, -1, -1)),
        ("trailing", 7, np.round(1000 * np.arange(7, 0, -1) / 7) - 1),
        ("linspace", 7, np.round(np.linspace(999, 0, 7))),
    ],
)
def test_spacings_of_diffusers_visit_the_levels_of_the_chain(name, n, places):
    sde = sde_lib.chain(1000)
    first = leading_time(sde, n, denoise=True) if name == "leading" else sde.t_max
    assert first == pytest.approx(places[0] / 999)
    high, low = levels_at(sde, [first, sde.t_min])
    chain = levels_at(sde, np.arange(1000) / 999)
    np.testing.assert_allclose(grid(name, n, sde, high, low), chain[places.astype(int)], rtol=1e-5)


@pytest.mark.thorough
def test_leading_levels_without_a_step_to_the_data_end_at_the_first_level():
    sde = sde_lib.chain(1000)
    first = leading_time(sde, 10, denoise=False)
    high, low = levels_at(sde, [first, sde.t_min])
    chain = levels_at(sde, np.arange(1000) / 999)
    expected = chain[[*range(901, 0, -100), 0]]
    made = grid("leading", 11, sde, high, low, denoise=False)
    np.testing.assert_allclose(made, expected, rtol=1e-5)


@pytest.mark.thorough
def test_a_start_on_the_way_divides_the_levels_below_it():
    sde = sde_lib.chain(1000)
    high, low = levels_at(sde, [500 / 999, sde.t_min])
    chain = levels_at(sde, np.arange(1000) / 999)
    np.testing.assert_allclose(grid("leading", 11, sde, high, low), chain[500::-50], rtol=1e-5)
    assert grid("trailing", 3, sde, high, low)[0] == pytest.approx(chain[500], rel=1e-5)


@pytest.mark.parametrize("name", ["leading", "trailing", "linspace"])
def test_spacings_are_of_a_chain(name):
    with pytest.raises(ValueError, match=f"grid '{name}' is of the levels of a chain"):
        grid(name)


def test_levels_are_checked():
    for wrong in ((1.0, 2.0), (2.0, 2.0), (1.0, -1.0), (1.0, float("nan")), ()):
        with pytest.raises(ValueError, match="noise levels"):
            check_grid(wrong, None)
    with pytest.raises(ValueError, match="grid 'karas' is unknown: did you mean 'karras'"):
        check_grid("karas", None)
    for rho in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="it must be in"):
            check_grid("karras", rho)
    with pytest.raises(ValueError, match="from 1 to 2 must decrease to a positive number"):
        grid("karras", high=1.0, low=2.0)
    with pytest.raises(ValueError, match="grid begins with 3, `start` with a noise level of 80"):
        grid((3.0, 1.0))
