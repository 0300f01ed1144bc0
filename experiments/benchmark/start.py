"""The time from a command to its first training step, and to its first picture."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.benchmark import measure
from experiments.benchmark.measure import Figure, Times
from experiments.benchmark.presets import Preset
from experiments.runs import files

POLL = 0.02  # seconds
PATIENCE = 1800.0  # seconds
SOON = ("--config.training.log_freq=1", "--config.training.snapshot_freq=1")


def figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """A command that was run before, and finds its programs compiled, against a new one."""
    taken: dict[str, Times] = {"first step": {}, "first picture": {}}
    with measure.working(f"start {preset.started}: timing", 2 * repeats) as shown:
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as cache:
                for kind in ("cold", "warm"):
                    for name, seconds in start(preset.started.flags(), Path(cache)).items():
                        taken[name].setdefault(kind, []).append(seconds)
                    shown.update()
    for name, times in taken.items():
        ratio, seconds = measure.ratio(times, "warm", ["cold"]), measure.medians(times)
        yield Figure("start", str(preset.started), name, ratio, seconds, repeats, {})


def start(flags: list[str], cache: Path) -> dict[str, float]:
    """Seconds to the first metrics in the run's folder, and to its first picture.

    Raises:
        OSError: the command ended before its first picture, or takes longer than PATIENCE.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "experiments.main", *flags, *SOON, f"--workdir={folder}"]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        begun = time.perf_counter()
        with (folder / "output").open("w+") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            try:
                return {
                    "first step": _until(
                        process, begun, lambda: files.read_lines(folder / "metrics.jsonl")
                    ),
                    "first picture": _until(
                        process, begun, lambda: any(folder.glob("samples/*.png"))
                    ),
                }
            except OSError as error:
                output.seek(0)
                raise OSError(f"{' '.join(command)}: {error}\n{output.read()[-2000:]}") from error
            finally:
                process.kill()
                process.wait()


def _until(process: subprocess.Popen, begun: float, done: Callable[[], object]) -> float:
    while not done():
        if process.poll() is not None:
            raise OSError(f"ended with {process.returncode}")
        if time.perf_counter() - begun > PATIENCE:
            raise OSError(f"no step or picture after {PATIENCE:.0f} s")
        time.sleep(POLL)
    return time.perf_counter() - begun
