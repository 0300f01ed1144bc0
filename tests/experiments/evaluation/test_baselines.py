import numpy as np
import pytest
from scipy import stats

from experiments.evaluation import baselines


def test_log_likelihoods_are_of_the_data_s_own_units():
    """The mixture finds a Gaussian's density to 0.2 nats; both move with the units."""
    random, std = np.random.RandomState(0), np.array([2.0, 0.1])
    train, test = random.randn(2000, 2), random.randn(500, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "BANDWIDTHS", np.array([0.2]))
        found = baselines.log_likelihoods(train, test, std)
        units = baselines.log_likelihoods(train, test, np.ones(2))
    exact = stats.norm.logpdf(test * std, 0, std).sum(1).mean()
    for name, figure in found.items():
        value = float(figure.split()[0])
        assert value == pytest.approx(exact, abs=0.2), name
        assert value == pytest.approx(float(units[name].split()[0]) - np.log(0.2), abs=0.002)
    assert next(iter(found)).endswith("a 10-component Gaussian mixture")
    assert [*found.values()][1].endswith("nats (bandwidth 0.2)")
