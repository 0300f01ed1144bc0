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
