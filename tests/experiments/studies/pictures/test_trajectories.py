import json

import jax
import numpy as np
import pytest

from configs import points
from experiments.commands.request import Request
from experiments.studies.pictures import trajectories
from sde_lib import VP, GaussianMixture


def test_quantiles_invert_the_cumulative_distribution():
    shares = np.array([0.01, 0.3, 0.5, 0.99])
    x = trajectories.quantiles(trajectories.MIXTURE, shares)
    np.testing.assert_allclose(trajectories.cumulative(trajectories.MIXTURE, x), shares, rtol=1e-9)
    normal = GaussianMixture((1.0,), ((2.0,),), 3.0)
    np.testing.assert_allclose(
        trajectories.quantiles(normal, np.array([0.5, 0.8413447])), [2, 5], atol=1e-5
    )


@pytest.fixture(scope="module")
def ways():
    return trajectories.draw(jax.random.key(0), VP(), 1000, 200)


@pytest.mark.thorough
def test_all_processes_have_the_marginals_of_the_mixture(ways):
    for name, each in ways.items():
        found = trajectories.measure(name, VP(), each)
        assert found.distance < 4 * found.by_chance


@pytest.mark.thorough
def test_the_flow_keeps_ranks_and_quantiles_and_the_sdes_forget_them(ways):
    flow, *sdes = (
        trajectories.measure(n, VP(), ways[n]) for n in ("flow", "reverse SDE", "forward SDE")
    )
    assert flow.rank_correlation > 0.9999
    assert flow.off_quantile < 1e-3
    for each in sdes:
        assert abs(each.rank_correlation) < 0.15
        assert each.off_quantile > 0.5


@pytest.mark.thorough
def test_the_forward_process_has_exact_transitions(ways):
    """The correlation with the start is that of the marginals, alpha s / std of x_t."""
    path, sde, mixture = ways["forward SDE"], VP(), trajectories.MIXTURE
    times = np.linspace(sde.t_min, sde.t_max, len(path))
    k = 20
    first, then = (mixture.marginal(sde, t).covariance[0, 0] for t in times[[0, k]])
    factor = float(sde.alpha(times[k]) / sde.alpha(times[0]))
    expected = factor * np.sqrt(first / then)
    assert np.corrcoef(path[0], path[k])[0, 1] == pytest.approx(expected, abs=0.05)


@pytest.mark.thorough
def test_the_study_writes_a_table_and_a_picture(tmp_path):
    config = points.get_config("mixture")
    config.study.trajectories.update(steps=100, n_samples=100, n_paths=3)
    trajectories.run(Request(config, tmp_path))
    rows = [json.loads(row) for row in (tmp_path / "trajectories_seed42.jsonl").open()]
    assert [row["process"] for row in rows] == ["forward SDE", "reverse SDE", "flow"]
    assert (tmp_path / "trajectories_seed42.png").exists()


def test_impossible_options_are_refused(tmp_path):
    config = points.get_config("mixture")
    config.training.sde = "cld"
    with pytest.raises(ValueError, match="velocities"):
        trajectories.run(Request(config, tmp_path))
    config.study.trajectories.steps = 10
    with pytest.raises(ValueError, match=r"trajectories.steps is 10"):
        trajectories.run(Request(config, tmp_path))
