"""Compiled programs are shared by the tests and the commands that they start, and made fast.

Most of the tests' time is compilation. Unoptimised code takes a quarter off it, and XLA's older
emitters of fused loops nearly half of the rest; XLA does not start with a flag that it does not
know, so that one is for the versions that have it.
"""

import gc
import importlib.metadata
import os
import resource
import tempfile
from pathlib import Path

MOST = 2 * 2**30  # bytes of memory, beyond which compiled programs are freed
FLAGS = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="score-sde-tests-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
os.environ.setdefault("XLA_FLAGS", FLAGS)

import fast_flax  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from xdist.scheduler import LoadFileScheduling  # noqa: E402

fast_flax.install()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process runs all tests of a file: they share fixtures and compiled programs."""
    return LoadFileScheduling(config, log)


def pytest_collection_finish():
    """Garbage collection skips all that exists before the tests: it took 7% of their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module():
    """Frees compiled programs once they take much memory: those of all tests would take 4 GB."""
    yield
    if _resident() > MOST:
        jax.clear_caches()


def _resident():
    """The bytes of memory that this process takes; where Linux does not tell them, the most."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:
        return MOST + 1
    return pages * resource.getpagesize()
