import golden
import numpy as np
import pytest

from experiments.training.averages.power_function import (
    LONGEST,
    Profiles,
    beta,
    fit,
    gamma_of,
    inner_products,
    length_of,
)

GOLDEN = golden.load("edm2_phema")
THETA = GOLDEN["track/theta"]  # [64, 4]: a parameter after each step


def profiles(lengths, times):
    gammas = [gamma_of(length) for length in np.atleast_1d(lengths)]
    return Profiles(np.array(gammas), np.asarray(times, np.float64) * np.ones(len(gammas)))


def tracked(theta, gamma):
    """The average after each step, [steps, ...], by its recurrence."""
    average, found = np.zeros(theta.shape[1:]), []
    for t, new in enumerate(theta, 1):
        kept = beta(gamma, t)
        average = kept * average + (1 - kept) * new
        found.append(average)
    return np.array(found)


def snapshots(theta, every, lengths=(0.05, 0.10)):
    """Profiles and averages of snapshots every so many steps, and at the end."""
    times = np.arange(every, len(theta) + 1, every)
    values = [tracked(theta, gamma_of(length))[times - 1] for length in lengths]
    of_each = profiles(np.repeat(lengths, len(times)), np.tile(times, len(lengths)))
    return of_each, np.concatenate(values)


def test_lengths_exponents_and_betas_are_the_published_ones():
    gammas = [gamma_of(length) for length in GOLDEN["sigma_rel"]]
    np.testing.assert_allclose(gammas, GOLDEN["gamma"], rtol=1e-9)
    np.testing.assert_allclose(length_of(gammas), GOLDEN["sigma_rel"], rtol=1e-9)
    kept = beta(np.array(gammas)[:, None], GOLDEN["nimg"], GOLDEN["batch"])
    np.testing.assert_allclose(kept, GOLDEN["beta"], rtol=1e-9)
    np.testing.assert_allclose(LONGEST, length_of(0.0), rtol=1e-15)
    assert gamma_of(LONGEST) < 1e-12


def test_a_length_is_the_standard_deviation_of_the_profile():
    tau = (np.arange(1_000_000) + 0.5) / 1_000_000
    for length in (0.03, 0.1, 0.25):
        p = (gamma_of(length) + 1) * tau ** gamma_of(length)
        mean = np.mean(p * tau)
        np.testing.assert_allclose(np.sqrt(np.mean(p * (tau - mean) ** 2)), length, rtol=1e-6)


@pytest.mark.parametrize("length", [0.0, -0.1, 0.29, float("nan")])
def test_an_impossible_length_is_refused(length):
    with pytest.raises(ValueError, match=r"ema is .* above 0 and at most 0\.2887"):
        gamma_of(length, "ema")


def test_inner_products_are_the_integrals_and_the_published_ones():
    a, b = profiles([0.05, 0.2], [3.0, 5.0]), profiles([0.1, 0.28], [5.0, 2.0])
    tau = (np.arange(1_000_000) + 0.5) / 200_000  # up to 5

    def values(of):
        each = zip(*of, strict=True)
        return np.array([(g + 1) / t * np.where(tau <= t, tau / t, 0) ** g for g, t in each])

    exact = values(a) @ values(b).T * 5e-6
    np.testing.assert_allclose(inner_products(a, b), exact, rtol=1e-5)
    given = profiles(GOLDEN["posthoc/in_sigma_rel"], GOLDEN["posthoc/in_nimg"])
    np.testing.assert_allclose(inner_products(given, given), GOLDEN["correlation"], rtol=1e-9)


def test_the_recurrence_gives_the_published_averages():
    for length, end in zip(GOLDEN["track/sigma_rel"], GOLDEN["track/ema"], strict=True):
        np.testing.assert_allclose(tracked(THETA, gamma_of(length))[-1], end, rtol=1e-9)


def test_averages_of_other_lengths_are_the_published_ones():
    given = profiles(GOLDEN["posthoc/in_sigma_rel"], GOLDEN["posthoc/in_nimg"])
    wanted = profiles(GOLDEN["posthoc/out_sigma_rel"], GOLDEN["posthoc/out_nimg"])
    found = fit(given, wanted)
    np.testing.assert_allclose(found.coefficients, GOLDEN["posthoc/coefficients"], atol=1e-7)
    np.testing.assert_allclose(found.coefficients.sum(axis=0), 1, rtol=1e-12)
    made = found.coefficients.T @ GOLDEN["posthoc/in_ema"]
    np.testing.assert_allclose(made, GOLDEN["posthoc/out_ema"], rtol=1e-9)
    assert off(made, GOLDEN["posthoc/direct_ema"]) < 1.3e-2


@pytest.mark.parametrize(("every", "error"), [(16, 1.3e-2), (8, 1.6e-3), (4, 3e-4), (2, 1e-4)])
def test_more_snapshots_come_nearer_to_averages_that_were_tracked(every, error):
    """Sixteen times are enough for 1e-3, also in float16, which adds up to 5e-4."""
    wanted = profiles(GOLDEN["posthoc/out_sigma_rel"], len(THETA))
    direct = np.array([tracked(THETA, gamma)[-1] for gamma in wanted.gamma])
    given, values = snapshots(THETA, every)
    coefficients = fit(given, wanted).coefficients
    assert off(coefficients.T @ values, direct) < error
    rounded = values.astype(np.float16).astype(np.float64)
    assert off(coefficients.T @ rounded, direct) < error + 5e-4


def test_the_error_of_a_fit_is_what_is_left_of_the_profile():
    tau = (np.arange(1_000_000) + 0.5) / 100_000  # up to 10
    given, wanted = profiles([0.05, 0.1, 0.1], [10, 10, 6]), profiles([0.15], [10])
    found = fit(given, wanted)

    def values(of):
        each = zip(*of, strict=True)
        return np.array([(g + 1) / t * np.where(tau <= t, tau / t, 0) ** g for g, t in each])

    target = values(wanted)[0]
    left = np.linalg.norm(target - found.coefficients[:, 0] @ values(given))
    np.testing.assert_allclose(found.error, left / np.linalg.norm(target), rtol=1e-4)


def test_a_profile_that_is_given_is_found_exactly():
    given = profiles([0.05, 0.1, 0.05, 0.1], [8, 8, 16, 16])
    found = fit(given, profiles([0.1], [16]))
    np.testing.assert_allclose(found.coefficients[:, 0], [0, 0, 0, 1], atol=1e-9)
    assert found.error[0] < 1e-7


def off(made, direct):
    """The largest error, as a share of the largest value."""
    return np.abs(made - direct).max() / np.abs(direct).max()
