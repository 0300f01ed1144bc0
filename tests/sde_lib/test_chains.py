import numpy as np
import pytest

import sde_lib
from sde_lib.chains import LEAST_ALPHA2, SCHEDULES


def alpha2(log_snrs):
    return 1 / (1 + np.exp(-np.asarray(log_snrs)))


@pytest.mark.parametrize(
    ("schedule", "options", "betas"),
    [
        ("linear", {}, np.linspace(1e-4, 0.02, 50)),
        ("linear", {"beta_end": 0.1}, np.linspace(1e-4, 0.1, 50)),
        ("scaled_linear", {"beta_start": 0.01, "beta_end": 0.04}, np.linspace(0.1, 0.2, 50) ** 2),
        ("explicit", {"betas": (0.1,) * 50}, np.full(50, 0.1)),
    ],
)
def test_levels_are_products_of_the_betas(schedule, options, betas):
    made = sde_lib.chain(50, schedule, **options)
    np.testing.assert_allclose(alpha2(made.log_snrs), np.cumprod(1 - betas), rtol=1e-9)


def test_cosine_levels_are_of_the_cosine_until_the_clip():
    made = sde_lib.chain(100, "cosine")
    t = np.arange(1, 100) / 100
    cos = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(alpha2(made.log_snrs)[:-1], cos, rtol=1e-9)
    assert SCHEDULES["cosine"](100)[-1] == 0.999


@pytest.mark.parametrize(
    ("sde", "signal"),
    [
        (sde_lib.Cosine(), lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2),
        (sde_lib.Sigmoid(), lambda t: 1 / (1 + np.exp(6 * t - 3)) - 1 / (1 + np.exp(3))),
        (sde_lib.Linear(), lambda t: 1 - t),
    ],
)
@pytest.mark.parametrize("n_levels", [7, 1000])
def test_a_schedule_s_chain_has_its_levels_until_the_clip(sde, signal, n_levels):
    """The levels reach t = 1, beyond the SDE's own t_max, where beta is clipped."""
    levels = alpha2(sde.levels(n_levels))
    expected = signal(np.arange(1, n_levels + 1) / n_levels) / signal(0.0)
    clipped = expected[1:] / expected[:-1] < 0.001
    assert clipped.sum() == 1
    np.testing.assert_allclose(levels[:-1], expected[:-1], rtol=1e-9)
    assert levels[-1] / levels[-2] == pytest.approx(0.001)


def test_the_chain_of_cosine_is_that_of_the_schedule_of_this_name():
    named = sde_lib.chain(4000, "cosine").log_snrs
    np.testing.assert_allclose(sde_lib.Cosine().levels(4000), named, rtol=1e-9)


def test_the_chain_of_vdm_s_schedule_is_that_of_its_finite_steps():
    sde = sde_lib.LogLinear(-6.0, 4.0, t_max=2.0)
    np.testing.assert_allclose(sde.levels(10), 6.0 - np.arange(1, 11), atol=1e-9)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        *[(name, name) for name in ("linear", "scaled_linear", "sigmoid", "laplace")],
        ("cosine", "squaredcos_cap_v2"),
    ],
)
@pytest.mark.parametrize("zero", [False, True])
def test_levels_are_those_of_diffusers(ours, theirs, zero):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(60, beta_schedule=theirs, rescale_betas_zero_snr=zero)
    levels = alpha2(sde_lib.chain(60, ours, zero_terminal_snr=zero).log_snrs)
    expected = scheduler.alphas_cumprod.numpy()
    last = 59 if zero else 60  # of the last one they have 0
    np.testing.assert_allclose(levels[:last], expected[:last], rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("n_levels", [60, 1000])
def test_a_last_level_without_signal_keeps_the_first(n_levels):
    plain, made = (sde_lib.chain(n_levels, zero_terminal_snr=zero) for zero in (False, True))
    assert 0 < alpha2(made.log_snrs)[-1] <= LEAST_ALPHA2 * 1.001
    assert made.log_snrs[0] == pytest.approx(plain.log_snrs[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "squaredcos"}, "beta_schedule 'squaredcos' is unknown"),
        ({"beta_start": 0.0}, "beta_start is 0.0"),
        ({"beta_end": 1.5}, "beta_end is 1.5"),
        ({"schedule": "explicit", "betas": (0.1, 0.2)}, "betas has 2 numbers, but .* 10 levels"),
        ({"schedule": "explicit", "betas": (1.2,) * 10}, r"each in \(0, 1\)"),
    ],
)
def test_impossible_chains_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sde_lib.chain(10, **options)
