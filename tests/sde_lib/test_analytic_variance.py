import jax
import numpy as np
import pytest
from closed_forms import Gaussian

import sde_lib
from sde_lib import analytic_variance, variational

DATA = Gaussian(0.3, 0.7)


@pytest.mark.thorough
@pytest.mark.parametrize("sde", [sde_lib.VP(), sde_lib.VE()])
def test_it_is_the_variance_of_a_gaussians_reversed_steps(sde):
    log_snrs, x = variational.chain(sde, 9), DATA.sample(jax.random.key(1), (20_000, 4))
    squares = analytic_variance.mean_squares(
        jax.random.key(0), sde, DATA.score_fn(sde), x, log_snrs
    )
    ours = analytic_variance.from_squares(log_snrs, *(np.mean(each, axis=0) for each in squares))
    low, high = np.exp(-log_snrs[1:]), np.exp(-log_snrs[:-1])  # l_t^2 and l_s^2
    # y_t = y_s + noise of variance l_t^2 - l_s^2, and y_s has the variance std^2 + l_s^2.
    exact = 1 / (1 / (low - high) + 1 / (DATA.std**2 + high))
    posterior = high * (low - high) / low
    mine = posterior * np.exp(ours.log_ratio(log_snrs[1:], log_snrs[:-1]))
    np.testing.assert_allclose(mine, exact, rtol=0.01)
    perfect = analytic_variance.from_squares(log_snrs, 1 / (1 + DATA.std**2 * np.exp(log_snrs)))
    mine = posterior * np.exp(perfect.log_ratio(log_snrs[1:], log_snrs[:-1]))
    np.testing.assert_allclose(mine, exact, rtol=1e-9)


def test_its_bounds():
    """Bao et al. 2022, Theorem 2: posterior's at least, l_t^2 - l_s^2 and the range's at most."""
    log_snrs = np.array([4.0, 2.0, 0.0, -6.0])
    made = analytic_variance.from_squares(log_snrs, np.array([-0.1, 0.4, 1.3, 0.2]))
    assert made.unknown == pytest.approx((1, 0.6, 0, 0.8))
    low, high = np.exp(-log_snrs[1:]), np.exp(-log_snrs[:-1])
    ratio = made.log_ratio(log_snrs[1:], log_snrs[:-1])
    assert ratio[1] == 0
    most = analytic_variance.from_squares(log_snrs, np.zeros(4))
    variance = high * (low - high) / low * np.exp(most.log_ratio(log_snrs[1:], log_snrs[:-1]))
    np.testing.assert_allclose(variance, low - high)
    bounded = analytic_variance.from_squares(log_snrs, np.zeros(4), data_range=(-1.0, 1.0))
    assert bounded.unknown == pytest.approx((1, 1, 1, np.exp(-6.0)))


def test_levels_between_and_levels_that_do_not_fit():
    made = sde_lib.AnalyticVariance((1.0, -1.0), (0.8, 0.4))
    np.testing.assert_allclose(made.at(np.array([9.0, 0.5, -9.0])), [0.8, 0.7, 0.4])
    for log_snrs, unknown in (((1.0, 2.0), (0.1, 0.2)), ((1.0,), (0.1, 0.2))):
        with pytest.raises(ValueError, match="as many"):
            sde_lib.AnalyticVariance(log_snrs, unknown)
