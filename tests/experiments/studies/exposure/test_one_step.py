"""Gaussian data, for which the error of the estimate is known."""

import json
from typing import Any

import jax
import numpy as np
import pytest

from configs import points
from experiments.commands.request import Request
from experiments.studies import registry, subject
from experiments.studies.exposure import one_step
from sde_lib import EDM, GaussianMixture

GAUSSIAN = GaussianMixture((1.0,), ((0.5, -1.0),), 0.7)
N = 20_000


class Model:
    gives = "score"

    def __init__(self, factor):
        self.factor, self.sde, self.preconditioning = factor, EDM(), None

    def score_fn(self, params, **conditions):
        return lambda x, t: self.factor * GAUSSIAN.score_fn(EDM())(x, t)


def config_of(**options):
    config = points.get_config("mixture")
    config.training.sde, config.sampling.batch_size = "edm", N
    config.study.update(name="one_step", one_step=options)
    return config


@pytest.fixture(scope="module")
def measured():
    data = np.asarray(GAUSSIAN.sample(jax.random.key(0), N))
    model: Any = Model(1.0)
    pipeline = subject.exact(config_of()).model.replace(model=model)
    return one_step.steps(pipeline, (data, {}), np.array([3.0, 1.0, 0.3, 0.1]))


@pytest.mark.thorough
def test_the_excess_of_the_exact_estimate_is_its_formula(measured):
    """And not that of an error that is independent of the noise."""
    variance = GAUSSIAN.std**2
    for step in measured:
        square = variance * step.start**2 / (variance + step.start**2)
        c = 1 - (step.end / step.start) ** 2
        assert step.estimate_error == pytest.approx(square**0.5, rel=0.02)
        assert step.step_error == pytest.approx(c * step.estimate_error)
        assert step.independent == pytest.approx(c**2 * square, rel=0.04)
        assert step.exact == pytest.approx((2 * c - c**2) * square, rel=0.04)
        assert abs(step.excess - (2 * c - c**2) * square) < 4 * step.excess_error < 0.2 * square
        assert step.excess > step.independent + 4 * step.excess_error


@pytest.mark.thorough
def test_the_study_of_the_mixture_saves_a_table_and_a_picture(tmp_path, capsys):
    registry.run(Request(config_of(n_levels=4, n_samples=50), tmp_path))
    table, picture = capsys.readouterr().out.splitlines()[-2:]
    rows = [json.loads(row) for row in (tmp_path / "one_step_0_seed42.jsonl").open()]
    assert [row["end"] for row in rows[:-1]] == [row["start"] for row in rows[1:]]
    assert len(rows) == 3
    assert (table.endswith(".md"), picture.endswith(".png")) == (True, True)
    assert "| start " in (tmp_path / "one_step_0_seed42.md").read_text()


@pytest.mark.parametrize("name", ["n_levels", "n_samples"])
def test_impossible_numbers_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"one_step.{name} is 1: it must be at least 2"):
        registry.run(Request(config_of(**{name: 1}), tmp_path))
