"""Mode configs: the configs and their variants, with what their docstrings say of them."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from configs import default
from experiments.commands.request import Request

PLAIN = ("description", "data")  # titles of columns that need no naming
EMPTY = ("", "not measured", "not known")  # cells that are not listed


def run(_: Request) -> None:
    """Prints every config with the first line of its docstring, and its variants."""
    for module in modules():
        print(described(module), end="\n\n")
    print("Train one by --config=configs/FILE.py:VARIANT; without VARIANT, the default.")


def modules() -> Iterator[Any]:
    """The modules of configs that have variants."""
    for path in sorted(Path(str(default.__file__)).parent.glob("*.py")):
        module = importlib.import_module(f"configs.{path.stem}")
        if hasattr(module, "get_config") and hasattr(module, "VARIANTS"):
            yield module


def described(module: ModuleType) -> str:
    """The config of a module: its file, its first line, and a line for each variant."""
    about = _about_variants(module.__doc__ or "")
    chosen = inspect.signature(module.get_config).parameters["variant"].default
    lines = [f"configs/{module.__name__.rpartition('.')[2]}.py"]
    lines.append(f"  {(module.__doc__ or '').splitlines()[0]}")
    for name in module.VARIANTS:
        what = f"{about.get(name, '')}{' (default)' if name == chosen else ''}"
        lines.append(f"    {name:<30}{what.strip()}".rstrip())
    return "\n".join(lines)


def _about_variants(text: str) -> dict[str, str]:
    """The first row of a variant in the tables of a docstring, as one line."""
    found, titles = {}, []
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            titles = []
        elif not titles:
            titles = cells
        elif titles[0] == "variant" and not set(cells[0]) <= {"-"}:
            pairs = zip(titles[1:], cells[1:], strict=False)
            pairs = (pair for pair in pairs if pair[1] not in EMPTY)
            named = (cell if title in PLAIN else f"{title} {cell}" for title, cell in pairs)
            found.setdefault(cells[0], ", ".join(named).removeprefix("the default: "))
    return found
