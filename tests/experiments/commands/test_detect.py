import csv

import numpy as np
import pytest

from experiments.commands import detect
from experiments.evaluation import detection

N, N_STEPS = 40, 3


def errors_in(table):
    with open(table) as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([float(row["rms"]) for row in rows if row["set"] == name])
        for name in ("test", "samples")
    }


def test_the_area_is_that_of_the_errors_of_test_points_and_samples(points_run, capsys):
    """Test points are at even distances in the test set."""
    points_run.config.detect.update(n_images=N, n_steps=N_STEPS)
    detect.run(points_run.request())
    found, table, picture = capsys.readouterr().out.splitlines()
    errors, model = errors_in(table), points_run.request().model()
    expected = f"AUC {detection.auc(errors['test'], errors['samples'])}"
    assert found == f"{expected} (step 20: {N} samples, {N} of the test set, {N_STEPS} steps each way)"
    rows = model.dataset().test[np.linspace(0, 1999, N).astype(int)]
    own = detection.reconstruction_errors(model, (rows, {}), N_STEPS)
    np.testing.assert_allclose(errors["test"], own, rtol=1e-4)
    assert len(errors["samples"]) == N
    assert picture.endswith(f"_seed42_{model.identity()[:6]}.png")
    card = points_run.folder / "checkpoints" / "20" / "model_card.md"
    assert f"| AUC of --mode=detect | {expected.removeprefix('AUC ')} | 20 |" in card.read_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_images": 1}, "config.detect.n_images is 1: it must be at least 2"),
        ({"n_steps": 1}, "config.detect.n_steps is 1: it must be at least 2"),
        ({"n_images": 2001}, "config.detect.n_images is 2001: the test set has 2000 images"),
    ],
)
def test_impossible_numbers_are_refused(points_run, fields, message):
    points_run.config.detect.update(fields)
    with pytest.raises(ValueError, match=message):
        detect.run(points_run.request())
