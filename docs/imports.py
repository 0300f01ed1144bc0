"""The table of which package imports which; each imports only those above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("configs", "experiments", "models", "samplers", "sde_lib")


def table() -> str:
    """A table in Markdown: a row for each package, with a mark below each that it imports.

    Raises:
        ValueError: packages that import each other.
    """
    needs: dict[str, set[str]] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            own = _package(".".join(path.relative_to(ROOT).with_suffix("").parts))
            found = {_package(name) for name in _imported(ast.parse(path.read_text()))}
            needs.setdefault(own, set()).update(found - {own})
    order = _in_order(needs)
    numbers = [str(k + 1) for k in range(len(order))]
    lines = [f"| | imports | {' | '.join(numbers)} |", f"| --- | --- |{' --- |' * len(order)}"]
    for number, name in zip(numbers, order, strict=True):
        marks = ("●" if other in needs[name] else "" for other in order)
        lines.append(f"| {number} | `{name}` | {' | '.join(marks)} |")
    return "\n".join(lines)


def _in_order(needs: dict[str, set[str]]) -> list[str]:
    """The packages, each after those that it imports."""
    order: list[str] = []
    while rest := sorted(needs.keys() - set(order)):
        ready = [name for name in rest if needs[name] <= set(order)]
        if not ready:
            raise ValueError(f"packages import each other: {', '.join(rest)}")
        order += ready
    return order


def _package(module: str) -> str:
    """The package of a module: a folder, or a package of experiments."""
    parts = module.removesuffix(".__init__").split(".")
    return ".".join(parts[: 1 + (parts[0] == "experiments")])


def _imported(tree: ast.AST) -> Iterator[str]:
    """The names of our modules that a module imports."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.split(".")[0] in FOLDERS)
