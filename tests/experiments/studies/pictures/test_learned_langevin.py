import json

import jax
import numpy as np
import pytest

from configs import points
from experiments.commands.request import Request
from experiments.studies.pictures import learned_langevin as study


@pytest.mark.thorough
def test_the_error_of_a_score_is_relative():
    """A score that is half the exact one is wrong by a half everywhere."""
    exact = study.MIXTURE.score_fn(study.SDE)
    found = study.errors(lambda x, t: 0.5 * exact(x, t), exact, jax.random.key(0))
    for points_of in found.values():
        np.testing.assert_allclose([error for _, error in points_of], 0.5, rtol=1e-4)


@pytest.mark.slow
def test_a_learned_score_is_wrong_between_the_modes_and_annealing_does_not_mind(tmp_path, capsys):
    config = points.get_config("mixture")
    config.study.langevin.n_samples = 400
    study.run(Request(config, tmp_path))
    printed = capsys.readouterr().out
    data, between = (
        [float(each.split()[0]) for each in line.split(": ")[1].split(", ")]
        for line in printed.splitlines()[:2]
    )
    assert data[0] < 0.3 < between[0]
    assert between[-1] < 0.1
    rows = [json.loads(row) for row in (tmp_path / "langevin_seed42.jsonl").open()]
    shares = {(row["dynamics"], row["score"]): row["upper_mode"][0] for row in rows}
    assert shares["annealed", "exact"] == pytest.approx(0.8, abs=0.07)
    assert shares["annealed", "learned"] == pytest.approx(0.8, abs=0.1)
    assert shares["plain", "exact"] == pytest.approx(0.5, abs=0.09)
    assert (tmp_path / "langevin_seed42_score.png").exists()


def test_impossible_options_are_refused(tmp_path):
    config = points.get_config("mixture")
    config.study.langevin.n_samples = 1
    with pytest.raises(ValueError, match=r"langevin.n_samples is 1"):
        study.run(Request(config, tmp_path))
