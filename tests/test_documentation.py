"""README.md and the pages of docs/: their Python runs, and their links and pictures exist."""

import contextlib
import re
import runpy
from pathlib import Path
from unittest import mock

import named_commands
import pytest
import saved_runs
import tiny_configs
from named_commands import ROOT

from experiments.build.tasks import TASKS
from experiments.data.sources import SOURCES
from experiments.evaluation.metrics import METRICS
from experiments.pipeline.guidance import GUIDES
from models.registry import MODELS
from samplers.registry import SAMPLERS

BLOCK = re.compile(r"^```python( notest)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+?)(#[^)\s]*)?\)")
GENERATED = {ROOT / "docs/config.md"}  # while the site is built
WITH_BLOCKS = [path for path in named_commands.PAGES if "```python\n" in path.read_text()]


def name(path):
    """The page's path in the repository."""
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A user's folder with runs/digits, and the weights that pages read."""
    folder = tmp_path_factory.mktemp("place")
    config = tiny_configs.digits_config()
    config.model.update(class_conditional=False, label_dropout=0.0)
    saved_runs.save(config, folder / "runs/digits")
    (folder / "model.safetensors").symlink_to(ROOT / "tests/golden" / WEIGHTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


WEIGHTS = "diffusers_ddpm_tiny/diffusion_pytorch_model.safetensors"


REGISTRIES = (SAMPLERS, MODELS, GUIDES, SOURCES, METRICS, TASKS)


@pytest.fixture
def registries():
    """What a page registers is gone after it."""
    with contextlib.ExitStack() as stack:
        for registry in REGISTRIES:
            stack.enter_context(mock.patch.dict(registry))
        yield


@pytest.mark.thorough
@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("path", WITH_BLOCKS, ids=name)
def test_python_of_a_page_runs(path, place):
    """The blocks of a page share their names, from top to bottom."""
    names = {"__name__": "__main__"}
    for notest, source in BLOCK.findall(path.read_text()):
        code = compile(source, f"{name(path)}: {source.splitlines()[0]}", "exec")
        if not notest:
            exec(code, names)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 700


@pytest.mark.parametrize("path", named_commands.PAGES, ids=name)
def test_links_of_a_page_lead_to_files(path):
    """Anchors are checked by the strict build of the site."""
    for target, _ in LINK.findall(re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
        if not re.match(r"https?:", target):
            found = (path.parent / target).resolve()
            assert found.exists() or found in GENERATED, target


def test_every_file_that_a_page_names_exists():
    """Paths in code marks, such as `sde_lib/gain.py`."""
    for path in named_commands.PAGES:
        named = re.findall(
            r"`?((?:sde_lib|samplers|models|configs|experiments)/[\w/]+\.py)", path.read_text()
        )
        assert [file for file in named if not (ROOT / file).exists()] == [], name(path)


def test_every_page_of_a_folder_has_one_title():
    for path in named_commands.PAGES[1:]:
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1, name(path)


@pytest.mark.thorough
def test_the_table_of_imports_has_all_marks_below_its_diagonal():
    imports = runpy.run_path(str(ROOT / "docs/imports.py"))
    rows = [line.split("|")[2:-1] for line in imports["table"]().splitlines()[2:]]
    names = [row[0].strip(" `") for row in rows]
    assert {"sde_lib", "models", "experiments.training", "experiments.main"} <= set(names)
    marks = {(k, m) for k, row in enumerate(rows) for m, cell in enumerate(row[1:]) if cell.strip()}
    assert (names.index("samplers"), names.index("sde_lib")) in marks
    assert all(other < own for own, other in marks)
    with pytest.raises(ValueError, match="packages import each other: a, b"):
        imports["_in_order"]({"a": {"b"}, "b": {"a"}, "c": set()})


@pytest.mark.thorough
def test_pictures_are_small():
    large = [path for path in (ROOT / "docs").rglob("*.png") if path.stat().st_size > 80_000]
    assert [Path(path).name for path in large] == []
