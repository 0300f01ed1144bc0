import json

import numpy as np
import pytest
from PIL import Image

from experiments import main
from experiments.studies.guidance import toy, tree
from sde_lib import EDM

OPTIONS = toy.Options((3.0,), n_samples=3000, n_seeds=2, n_iters=0)


@pytest.fixture(scope="module")
def results():
    found = toy.measure(EDM(), OPTIONS, seed=0)
    return {(result.guidance, result.weight): result for result, _ in found}


@pytest.mark.thorough
def test_exact_samples_are_within_the_region_and_in_all_modes(results):
    exact = results["none", 1.0]
    assert exact.outside.value == pytest.approx(tree.OUTSIDE, abs=1.5e-3)
    assert exact.kept.value == 1


@pytest.mark.thorough
def test_autoguidance_brings_samples_back_and_keeps_the_modes(results):
    """Classifier-free guidance at the same scale leaves more outliers, and loses modes."""
    plain, auto = results["autoguidance", 1.0], results["autoguidance", 3.0]
    free = results["classifier_free", 3.0]
    assert plain.outside.value > 0.15
    assert auto.outside.value < 0.1 * plain.outside.value
    assert auto.kept.value == 1
    assert free.outside.value > 5 * auto.outside.value
    assert free.kept.value < 0.8
    assert free.least.value < 0.1 < 0.5 < auto.least.value
    assert free.distance.value > 2 * auto.distance.value


@pytest.mark.thorough
def test_modes_and_their_shares_are_those_of_the_tree():
    (own, other) = (tree.tree(root) for root in tree.ROOTS)
    assert own.shares.sum() == pytest.approx(1)
    assert len(own.shares) == 2**tree.DEPTH - 1
    x = np.repeat(
        np.asarray(own.mixture.means), np.round(6e3 * np.array(own.mixture.weights)).astype(int), 0
    )
    np.testing.assert_allclose(own.found(x), 1, rtol=0.01)
    assert own.outside(x) == 0
    away = np.full((5, 2), 9.0)
    assert own.outside(away) == 1
    assert not own.found(away).any()
    both = tree.both([own, other])
    np.testing.assert_allclose(sum(both.weights), 1)
    assert own.outside(tree.exact(other.mixture, 500, 0)) > 0.5


@pytest.mark.thorough
def test_the_study_trains_its_networks_and_needs_no_run(tmp_path, capsys):
    options = "weights=(2.0,)", "n_samples=20", "n_seeds=2", "n_iters=8"
    argv = "main", "--mode=study", "--config.study.name=autoguidance", f"--workdir={tmp_path}"
    main.main([*argv, *(f"--config.study.autoguidance.{option}" for option in options)])
    lines = capsys.readouterr().out.splitlines()
    (path,) = tmp_path.glob("autoguidance_*.jsonl")
    rows = [json.loads(row) for row in path.open()]
    assert [row["models"] for row in rows] == ["exact"] + ["wide"] * 4 + ["trained"] * 4
    assert lines[-1] == str(path.with_suffix(".png"))
    assert np.asarray(Image.open(path.with_suffix(".png"))).std() > 1
