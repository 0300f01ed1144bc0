"""Compiled programs are shared by the tests and the commands that they start, and made fast.

Most of the tests' time is compilation. Code without optimisation takes a quarter off it, and XLA's
former way to write fused loops halves the rest: 0.55 seconds for a forward pass in place of 1.2.
XLA ends a process that sets a flag that it does not know, so the second flag is set only for the
version of jaxlib that it was measured with.
"""

import os
import tempfile

from jaxlib.version import __version__ as jaxlib_version

FLAGS = ["--xla_backend_optimization_level=0"]
if jaxlib_version.startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="score-sde-tests-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
