"""The notebooks of docs/tutorials."""

import ast
import json

import matplotlib
import pytest
from named_commands import ROOT

NOTEBOOKS = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))


def code_cells(path):
    """The sources of a notebook's code cells."""
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_without_results(path):
    book = json.loads(path.read_text())
    assert book["nbformat"] == 4
    assert path.stat().st_size < 20_000
    assert not any(cell.get("outputs") for cell in book["cells"])
    assert "".join(book["cells"][0]["source"]).startswith("# ")
    for cell in code_cells(path):
        ast.parse(cell)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    """In an empty folder beside the repository's own, as from its root."""
    matplotlib.use("Agg")
    for folder in ("configs", "tests", "experiments", "models", "samplers", "sde_lib"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(path)):
        exec(compile(cell, f"{path.name}, code cell {number}", "exec"), names)
