import json

import pytest

import experiments
import samplers
from experiments import main
from experiments.build.components import grids, sampling
from experiments.studies.grid.study import OWN, Options
from sde_lib import VP

SMALL = "solvers=('euler','dpmpp_2m')", "nfe=(4,)", "n_fine=20", "n_samples=8"


def command(folder, *options):
    argv = "main", "--mode=study", "--config.study.name=grid", f"--workdir={folder}"
    main.main([*argv, *(f"--config.study.grid.{option}" for option in options)])


@pytest.mark.thorough
def test_a_run_gives_a_file_that_samplers_take(digits_run, capsys):
    folder = digits_run.folder
    command(folder, *SMALL)
    lines = capsys.readouterr().out.splitlines()
    path = next(folder.glob("grid_*.json"))
    assert lines[-1] == str(path)
    rows = [json.loads(line) for line in path.with_suffix(".jsonl").open()]
    assert [row["solver"] for row in rows] == ["euler"] * 3 + ["dpmpp_2m"] * 3
    assert rows[2]["grid"] == OWN
    (levels,) = json.loads(path.read_text())["grids"].values()
    overrides = {"sampling.method": "euler", "sampling.n_steps": 4, "sampling.grid": str(path)}
    model = experiments.load(folder, overrides=overrides)
    assert model.sampler.grid == tuple(levels)
    config = digits_run.config.copy_and_resolve_references()
    config.sampling.grid = str(path)
    assert sampling.solver(config, "dpmpp_2m", 4).grid == tuple(levels)
    overrides["sampling.n_steps"] = 5
    with pytest.raises(ValueError, match="has grids of 4 levels, and the sampler needs 5: set con"):
        experiments.load(folder, overrides=overrides)


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "grid.json"
    with pytest.raises(ValueError, match=r"no file .*grid\.json, which config\.sampling\.grid"):
        grids.levels(path, VP(), 2)
    grids.save(path, VP(), {2: [3.0, 0.1]}, {"step": 1})
    assert grids.levels(path, VP(), 2) == (3.0, 0.1)
    assert samplers.create("heun", n_steps=2, grid=grids.levels(path, VP(), 2)).nfe == 3
    with pytest.raises(
        ValueError, match=r"grids for VP\(.*, and the SDE is VP\(.*beta_max=10.*: make"
    ):
        grids.levels(path, VP(beta_max=10.0), 2)
    path.write_text("[]")
    with pytest.raises(ValueError, match="is no file of grids: give another one"):
        grids.levels(path, VP(), 2)


def test_impossible_options_are_refused():
    about = {"solvers": ("euler",), "nfe": (6,), "order": 1, "n_fine": 50, "n_samples": 8}
    for changes, words in (
        ({"order": 3}, "order is 3: it must be at most 2"),
        ({"n_fine": 6}, "n_fine is 6: it must be at least 7"),
        ({"nfe": ()}, "nfe is empty"),
    ):
        with pytest.raises(ValueError, match=words):
            Options(**about | changes)
