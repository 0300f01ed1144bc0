"""A wheel holds one package, whose imports are its own; the numbers of the version agree."""

import ast
import os
import re
import runpy
import subprocess
import sys
import zipfile

import pytest
from named_commands import ROOT

SETUP = runpy.run_path(str(ROOT / "setup.py"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from sde_lib.sde import SDE", "from score_sde_jax.sde_lib.sde import SDE"),
        ("    import models", "    from score_sde_jax import models"),
        ("import samplers as s", "from score_sde_jax import samplers as s"),
        ('load(f"configs.{name}")', 'load(f"score_sde_jax.configs.{name}")'),
        ("python -m experiments.main", "python -m score_sde_jax.experiments.main"),
        ("from modelsummary import x", "from modelsummary import x"),
        ('name = "models/published"', 'name = "models/published"'),
        ("config.experiments.x", "config.experiments.x"),
    ],
)
def test_imports_of_a_wheel_are_inside_it(before, after):
    assert SETUP["inside"](before) == after


def imported(tree):
    """The names of the modules that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.thorough
def test_no_import_of_a_top_level_folder_is_left():
    """A form of import that the build does not know would fail in a user's environment."""
    for folder in (*SETUP["FOLDERS"], SETUP["NAME"]):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(SETUP["inside"](path.read_text()))
            names = {name.split(".")[0] for name in imported(tree)}
            assert not names & set(SETUP["FOLDERS"]), path


def test_versions_agree():
    setup, citation = (ROOT / "setup.cfg").read_text(), (ROOT / "CITATION.cff").read_text()
    (version,) = re.findall(r"(?m)^version = (.*)$", setup)
    assert f"\nversion: {version}\n" in citation
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


SMOKE = """
import jax, score_sde_jax as package
from score_sde_jax import samplers, sde_lib
from score_sde_jax.samplers.registry import SAMPLERS
import models
assert models.MINE and SAMPLERS is samplers.SAMPLERS
sampler = samplers.create("heun", n_steps=2)
sampler(jax.random.key(0), sde_lib.EDM(), lambda x, t: -x / t[:, None] ** 2, (1, 2))
"""


@pytest.mark.slow
def test_a_wheel_works_beside_a_users_own_packages(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0].removesuffix(".dist-info")[:13] for name in names} == {SETUP["NAME"]}
    assert f"{SETUP['NAME']}/py.typed" in names
    assert f"{SETUP['NAME']}/configs/digits.py" in names
    for name in SETUP["FOLDERS"]:
        (tmp_path / f"{name}.py").write_text("MINE = True")
    (tmp_path / "smoke.py").write_text(SMOKE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    options = {"cwd": tmp_path, "env": environment, "check": True}
    subprocess.run([sys.executable, "smoke.py"], **options)
    for arguments in (["--help"], ["--mode=configs"]):
        subprocess.run([sys.executable, "-m", "score_sde_jax", *arguments], **options)
