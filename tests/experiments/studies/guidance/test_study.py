import json

import numpy as np
import pytest
from PIL import Image

from experiments import main

OPTION = "--config.study.guidance."
POINTS = "weights=(1.0,2.0)", "nfe=(9,)", "n_samples=20", "solvers=('heun',)", "n_seeds=2"


def command(folder, *options):
    argv = "main", "--mode=study", "--config.study.name=guidance", f"--workdir={folder}"
    main.main([*argv, *(f"{OPTION}{option}" for option in options)])


def rows(folder):
    (path,) = folder.glob("guidance_*.jsonl")
    return path, [json.loads(row) for row in path.open()]


@pytest.mark.thorough
def test_points_need_neither_a_config_nor_a_run(tmp_path, capsys):
    command(tmp_path, *POINTS)
    lines = capsys.readouterr().out.splitlines()
    path, results = rows(tmp_path)
    assert len(results) == 3 * 2 * 2
    assert {row["weight"] for row in results} == {1, 2}
    table = path.with_suffix(".md").read_text().splitlines()
    assert table == lines[: len(table)]
    assert lines[-1] == str(path.with_suffix(".png"))
    assert np.asarray(Image.open(path.with_suffix(".png"))).std() > 1


@pytest.mark.thorough
def test_a_run_takes_its_folder_alone(digits_run, capsys):
    """Two schedules; a picture of the statistics, and one of the images for each schedule."""
    folder = digits_run.folder
    sets = "weights=(1.0,2.0)", "nfe=(3,)", "n_samples=20", "n_seeds=2"
    command(folder, *sets, "schedules=('constant','linear')")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "8 sets of 20 samples, (3,) guided evaluations each"
    path, results = rows(folder)
    assert [(row["schedule"], row["weight"]) for row in results] == [
        *(("constant", 1), ("constant", 2), ("linear", 1), ("linear", 2)),
    ]
    assert all(len(row["diversity"]) == 2 and "share" not in row for row in results)
    assert [line for line in lines if line.startswith("linear, heun 3, best by frechet w = ")]
    for name in (path.stem, f"{path.stem}_0", f"{path.stem}_1"):
        assert np.asarray(Image.open(folder / f"{name}.png")).std() > 1


def test_options_of_a_run_are_refused_without_one(tmp_path):
    with pytest.raises(ValueError, match=r"study\.guidance\.schedules needs a run"):
        command(tmp_path, *POINTS, "schedules=('linear',)")


@pytest.mark.thorough
def test_too_few_samples_for_the_statistics_are_refused(digits_run):
    with pytest.raises(ValueError, match=r"guidance\.n_samples is 19: it must be at least 20"):
        command(digits_run.folder, "n_samples=19", "nfe=(3,)")
