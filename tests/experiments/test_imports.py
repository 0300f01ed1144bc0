"""Imports of experiments/ point one way, from a layer to lower ones, and never in a circle."""

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import experiments

ROOT = Path(experiments.__file__).parent
LAYERS = (  # lowest first
    ("runs",),
    ("data",),
    ("training",),
    ("pipeline",),
    ("evaluation",),
    ("tasks",),
    ("build",),
    ("commands", "studies"),
    ("main", "command_line", "config_file", "edge", "benchmark"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TOP = len(LAYERS) - 1  # the modules of this layer may import each other
SHARED = "commands.request"  # the arguments that commands and studies have in common
MOST = 12  # modules in a folder, without __init__


def name_of(path):
    """The dotted name of a module, such as "runs.card"; "" for experiments itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def imported(tree, nodes):
    """Names of the modules of experiments that are imported by some nodes of a module."""
    found = set()
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name.removeprefix("experiments.") for name in found if name.startswith("experiments.")}
    return {name if name in TREES else name.rpartition(".")[0] for name in ours} - {""}


def at_run_time(tree):
    """All nodes of a module but those under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from at_run_time(node)


def wrong_arrows(trees):
    """The imports of an upper layer, or of another folder of the same layer."""
    return [
        f"{name} -> {other}"
        for name, tree in trees.items()
        for other in sorted(imported(tree, ast.walk))
        if (own := name.split(".")[0]) != (theirs := other.split(".")[0])
        and not LEVEL[theirs] < LEVEL[own]
        and not (other == SHARED and LEVEL[theirs] == LEVEL[own])
        and not LEVEL[theirs] == LEVEL[own] == TOP
    ]


def circle(trees):
    """Modules that import each other, or None. Folders' own __init__ are left out."""
    graph = {name: imported(tree, at_run_time) & trees.keys() for name, tree in trees.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]


def test_imports_point_from_a_layer_to_lower_ones():
    """experiments itself imports a layer only when its function is called."""
    trees = {name: tree for name, tree in TREES.items() if name}
    assert wrong_arrows(trees) == []
    assert not any(isinstance(node, ast.Import) for node in TREES[""].body)


def test_no_modules_import_each_other_in_a_circle():
    assert circle(TREES) is None


@pytest.mark.parametrize(
    ("source", "arrows"),
    [
        ("from experiments.data import load", ["runs.x -> data.load"]),
        ("def f():\n    import experiments.tasks.base", ["runs.x -> tasks.base"]),
        ("if TYPE_CHECKING:\n    from experiments import training", ["runs.x -> training"]),
        ("from experiments.runs.card import CARD\nimport jax", []),
    ],
)
def test_a_wrong_arrow_is_found(source, arrows):
    assert wrong_arrows({"runs.x": ast.parse(source)}) == arrows


def test_a_circle_is_found():
    """An import under TYPE_CHECKING closes none."""
    sources = {"runs.card": "import experiments.runs.files", "runs.files": "", "runs.hosts": ""}
    for line, expected in (("", False), ("from experiments.runs import card", True)):
        sources["runs.files"] = f"def f():\n    {line or 'pass'}"
        assert bool(circle({k: ast.parse(v) for k, v in sources.items()})) == expected
        sources["runs.files"] = f"if TYPE_CHECKING:\n    {line or 'pass'}"
        assert not circle({k: ast.parse(v) for k, v in sources.items()})


def test_every_module_has_a_layer_and_no_folder_is_large():
    names = {name.split(".")[0] for name in TREES if name}
    assert names == LEVEL.keys()
    folders = Counter(path.parent for path in ROOT.rglob("*.py") if path.name != "__init__.py")
    assert max(folders.values()) <= MOST


def test_docstrings_state_the_order_of_the_layers():
    """Each folder's docstring names the layer below it, and experiments' names all in order."""
    for name, level in LEVEL.items():
        below = " and ".join(f"experiments.{layer}" for layer in LAYERS[level - 1])
        expected = {
            0: "Imports nothing else of experiments/.",
            1: f"May import {below}.",
            TOP: f"May import {below}, and the layers below.",
        }.get(level, f"May import {below} and the layers below it.")
        if not TREES[name].body or not (ROOT / name).is_dir():
            continue
        assert expected in said(name), name
    order = re.findall(r"\w+", re.sub(r".*one way:|runs -> .*", "", said("")) + "runs")
    assert order == ["main", *(name for names in LAYERS[-2::-1] for name in names)]


@pytest.mark.thorough
def test_no_module_imports_pytorch(tmp_path):
    """A broken PyTorch, whose import raises an OSError, is left alone."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.12')")
    left_out = ("__main__", "page.layout")  # gradio may be missing, which the second needs
    names = [f"experiments.{name}" for name in TREES if name and not name.endswith(left_out)]
    source = f"import {', '.join(names)}, pathlib, sys\n"
    source += "experiments.runs.metrics.TensorBoard(pathlib.Path(sys.argv[1]), 0)\n"
    command = [sys.executable, "-c", source, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT.parent}"}
    subprocess.run(command, env=environment, check=True)
    assert list(tmp_path.glob("events.out.*"))


def said(name):
    """The docstring of a module in one line."""
    return " ".join((ast.get_docstring(TREES[name]) or "").split())
