import json

import numpy as np
import pytest
from PIL import Image

from experiments.runs import charts, hosts, pictures

ABOUT = pictures.provenance(config={"model": {"nf": 8}}, seed=3)
METRICS = [{"step": step, "loss": 1 / step, "grad_norm": 1.0} for step in (1, 2, 3)]
POINTS = np.random.RandomState(0).randn(50, 2)
FRAMES = np.stack([POINTS, 0.5 * POINTS, POINTS])
LINE = {"heun": [(10, 0.5), (20, 0.1)], "euler": [(10, 1.0), (20, 0.5)]}
RATIOS = {("euler", 1): [(1.0, 0.9, 0.1), (2.0, 1.0, 0.1)], ("euler", 2): [(1.0, 1.1, 0.1)]}
ARMS = {"plain": [1.0, 2.0, 3.0], "guided": [0.5, 1.0, 1.5]}
GRID = charts.Grid({"w = 1": [(1.0, 0.5), (1.1, 0.4)]}, {"guided": (1.1, 0.4)})
ESTIMATE = charts.Estimate("title", POINTS, np.eye(8))
LINES = charts.Lines("title", "x", LINE, {"heun": [(10, 0.4), (20, 0.2)]}, 0.1)


@pytest.mark.parametrize(
    "save",
    [
        lambda path: charts.save_loss_curve(path, METRICS, ABOUT),
        lambda path: charts.save_points(path, POINTS, POINTS, np.eye(8), 3.0, ABOUT),
        lambda path: charts.save_point_path(path, FRAMES, ABOUT),
        lambda path: charts.save_series(path, {"a": FRAMES, "b": FRAMES[:2]}, ABOUT),
        lambda path: charts.save_point_paths(
            path, {"a": FRAMES}, 3, POINTS[:9], POINTS[:9], 3.0, ABOUT
        ),
        lambda path: charts.save_work_precision(path, [charts.Curves("t", LINE, 0.01)] * 2, ABOUT),
        lambda path: charts.save_work_precision(
            path, [charts.Curves("t", LINE, cost="seconds", log=False)], ABOUT
        ),
        lambda path: charts.save_distances(path, list("abcdefgh"), np.eye(8), ABOUT),
        lambda path: charts.save_ratios(path, [charts.Ratios("t", RATIOS)], 1, ABOUT),
        lambda path: charts.save_arms(path, {"a": ARMS, "b": ARMS}, 2, ABOUT),
        lambda path: charts.save_grids(path, {"a": GRID}, 1, ABOUT),
        lambda path: charts.save_rocs(path, {"a": {"b": POINTS, "c": POINTS}}, ABOUT),
        lambda path: charts.save_estimates(
            path, POINTS, [ESTIMATE] * 2, np.eye(8), [LINES] * 2, 3.0, ABOUT
        ),
        lambda path: charts.save_maps(path, {"a": {"t = 0": np.eye(8)}}, ABOUT),
        lambda path: charts.save_ways(
            path,
            [charts.Ways("flow", np.eye(8), POINTS[:8, :1] * np.ones(8))],
            np.arange(8),
            3.0,
            ABOUT,
        ),
    ],
    ids=[
        "loss",
        "points",
        "path",
        "series",
        "paths",
        "work",
        "seconds",
        "distances",
        "ratios",
        "arms",
        "grids",
        "roc",
        "estimates",
        "maps",
        "ways",
    ],
)
def test_every_chart_says_that_a_model_made_it_and_how(save, tmp_path, monkeypatch):
    path = save(tmp_path / "new" / "chart.png")
    with Image.open(path) as image:
        assert np.unique(np.asarray(image)).size > 2
        assert image.info["DigitalSourceType"] == "trainedAlgorithmicMedia"
        parameters = json.loads(image.info["Parameters"])
    assert parameters == {"config": {"model": {"nf": 8}}, "seed": 3}
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    assert not save(tmp_path / "other.png").exists()
