"""Config files: Python code with a function get_config, as --config=FILE.py[:VARIANT] names it."""

import difflib
import inspect
import os
import re
import runpy
import traceback
from pathlib import Path

from configs import default
from experiments.edge import first_line
from experiments.runs import files
from experiments.runs import folder as folders
from models.config import Config

NO_EXPERIMENTS = ("default.py", "published.py")  # files of configs/ that others build on


def parts(name: str) -> tuple[Path, str]:
    """The two parts of --config=FILE.py[:VARIANT]."""
    file, colon, variant = name.rpartition(":")
    if not colon or files.expand(name).is_file():
        file, variant = name, ""
    return files.expand(file), variant


def read(file: Path, variant: str) -> Config:
    """The config that the function get_config of a file makes.

    Raises:
        ValueError: there is no such file, it has no such variant, or it cannot be run.
    """
    if not file.is_file() or file.suffix == ".json":
        raise ValueError(_no_config(file))
    try:
        module = runpy.run_path(str(file))
    except Exception as error:  # a user's code may raise anything
        raise ValueError(_failure(file, error)) from error
    if "get_config" not in module:
        raise ValueError(f"{file} has no function get_config: it is no config")
    if variant and not inspect.signature(module["get_config"]).parameters:
        raise ValueError(f"{file} has no variants, but --config names {variant!r}")
    try:
        config = module["get_config"](*filter(None, [variant]))
    except ValueError:  # an unknown variant
        raise
    except Exception as error:
        raise ValueError(_failure(file, error)) from error
    if not isinstance(config, default.Section):
        raise ValueError(f"get_config of {file} returns {type(config).__name__}, not a config")
    return config


def _failure(file: Path, error: Exception) -> str:
    """Says what went wrong in a config file, and in which line."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)[::-1]
        if frame.filename == str(file)
    ]
    where = f", line {lines[0]}" if lines else ""
    return f"{file}{where}: {type(error).__name__}: {first_line(error)}"


def _no_config(file: Path) -> str:
    """Says that a file is no config, and which files are."""
    if file.suffix == ".json" or folders.has_run(file):
        folder = file.parent if file.suffix == ".json" else file
        return f"--config={file} is no FILE.py[:VARIANT]: for a run, give --workdir={folder}"
    ours = Path(os.path.relpath(Path(str(default.__file__)).parent))
    known = {
        path.stem: str(path)
        for folder in (ours, file.parent)
        for path in folder.glob("*.py")
        if path.name not in NO_EXPERIMENTS and "def get_config" in path.read_text("utf-8", "ignore")
    }
    near = difflib.get_close_matches(re.sub(r"^configs\.|\.py$", "", file.name), known, 1)
    hint = f"; did you mean {known[near[0]]}?" if near else ""
    choice = ", ".join(sorted(known.values()))
    return f"there is no config {str(file)!r}: choose one of {choice}{hint}"
