"""Compiled programs are shared by the tests and the commands that they start, and made fast.

Most of the tests' time is compilation. Unoptimised code takes a quarter off it, and XLA's older
emitters of fused loops nearly half of the rest; XLA does not start with a flag that it does not
know, so that one is for the versions that have it.
"""

import importlib.metadata
import os
import tempfile

FLAGS = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="score-sde-tests-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
os.environ.setdefault("XLA_FLAGS", FLAGS)

import jax  # noqa: E402
import pytest  # noqa: E402
from xdist.scheduler import LoadFileScheduling  # noqa: E402


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process runs all tests of a file: they share fixtures and compiled programs."""
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module():
    """Frees a module's compiled programs after it: those of all tests would take 4 GB a worker."""
    yield
    jax.clear_caches()
