"""Files of noise levels that were optimised for a model, as config.sampling.grid names them."""

from pathlib import Path
from typing import Any

from experiments.runs import files
from sde_lib import SDE

ENDING = ".json"


def save(path: Path, sde: SDE, grids: dict[int, list[float]], about: dict[str, Any]) -> Path:
    """Writes grids by their numbers of levels, with the SDE that they are for."""
    files.write_json(
        path, {"sde": str(sde), **about, "grids": {str(n): g for n, g in grids.items()}}
    )
    return path


def levels(path: Path, sde: SDE, n: int) -> tuple[float, ...]:
    """The grid of n levels in a file.

    Raises:
        ValueError: no such file, one of another SDE, or one without a grid of n levels.
    """
    if not path.exists():
        raise ValueError(
            f"there is no file {path}, which config.sampling.grid names: make one by --mode=study "
            "--config.study.name=grid, or give the name of a grid"
        )
    found = files.read_json(path)
    if not isinstance(found, dict) or not {"sde", "grids"} <= found.keys():
        raise ValueError(f"config.sampling.grid, {path}, is no file of grids: give another one")
    if found["sde"] != str(sde):
        raise ValueError(
            f"config.sampling.grid, {path}, has grids for {found['sde']}, and the SDE is {sde}: "
            "make one for this model by --mode=study --config.study.name=grid, or give the name "
            "of a grid"
        )
    if str(n) not in found["grids"]:
        there = ", ".join(sorted(found["grids"], key=int))
        raise ValueError(
            f"{path} has grids of {there} levels, and the sampler needs {n}: set "
            "config.sampling.n_steps, or make the grid with another config.study.grid.nfe"
        )
    return tuple(found["grids"][str(n)])
