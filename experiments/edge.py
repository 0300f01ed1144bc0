"""The process's edge: whatever ends a command becomes one message.

A user's mistake says itself what to change. Any other error gets a file with its traceback.
"""

import errno
import linecache
import os
import re
import shlex
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import jax

from experiments.runs import hosts
from experiments.runs.long import interrupt

NO_ROOM = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))
NO_MEMORY = re.compile("RESOURCE_EXHAUSTED|OUT_OF_MEMORY|ALLOC_FAILED|out of memory", re.I)
OURS = {"configs", "experiments", "models", "samplers", "sde_lib", "score_sde_jax"}
LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
LONGEST = 400  # characters of a library's message
DRAWN = "lower config.sampling.batch_size"
SCORED = "lower config.eval.batch_size"
TRAINED = "raise config.training.n_microbatches, or lower config.training.batch_size in a new run"
HELD = "lower config.model.nf, or split the state over devices (config.mesh.fsdp)"
SMALLER = {  # module of experiments that ran out of memory: what takes less
    "data": "give fewer or smaller data (config.data.image_size)",
    "pipeline.draw": DRAWN,
    "pipeline.edit": DRAWN,
    "pipeline.likelihood": SCORED,
    "evaluation.metrics": f"{DRAWN} and config.eval.batch_size",
    "evaluation": SCORED,
    "tasks.held_out": SCORED,
    "training.checkpoints": HELD,
    "training.state": HELD,
    "training": TRAINED,
}
OTHERWISE = f"{TRAINED}, if it trains; {SCORED}, if it evaluates; {DRAWN}, if it samples"


@contextmanager
def guard(folder: Callable[[], Path | None]) -> Iterator[None]:
    """Ends the process with a message and status 1 if anything is raised inside.

    Args:
        folder: gives the run's folder. A traceback is written there if it exists, and to the
            folder of temporary files otherwise.
    """
    try:
        yield
    except KeyboardInterrupt:
        interrupt.leave()
    except Exception as error:  # the last one to hear of it
        hosts.leave(f"error: {message(error, folder())}")


def message(error: Exception, folder: Path | None = None) -> str:
    """The message of an error: it says what to do, or in which file its traceback is written."""
    text = str(error)
    if any(reason in text for reason in NO_ROOM):  # an OSError, or what orbax makes of it
        return "the disk is full; the checkpoint before is good: make room, run the same again"
    if _explains_itself(error):
        return text
    kept = _write_traceback(error, folder)
    on_device = isinstance(error, jax.errors.JaxRuntimeError) and NO_MEMORY.search(text)
    if on_device or isinstance(error, MemoryError):
        return (
            f"out of memory ({first_line(error)}): {_smaller(error)}; --mode=plan shows the memory "
            f"of a training step; {kept}"
        )
    return f"{type(error).__name__}: {first_line(error)} ({kept})"


def first_line(error: Exception) -> str:
    """The first line of an error's text, without the quotes of a KeyError."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text.strip().partition("\n")[0][:LONGEST]


def _explains_itself(error: Exception) -> bool:
    """True for an error that names a file, and for one that a statement of ours raised for users.

    Errors of a library, and of Python's own functions, lack what they happened to.
    """
    if isinstance(error, OSError) and error.filename is not None:
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames or not isinstance(error, (OSError, ValueError, FloatingPointError)):
        return False
    frame, number = frames[-1]
    file, package = frame.f_code.co_filename, _module(frame).partition(".")[0]
    stated = linecache.getline(file, number).strip().startswith("raise")
    return stated and (package in OURS or not file.startswith(LIBRARIES))


def _smaller(error: Exception) -> str:
    """Advice that takes less memory, by the innermost module that has some."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        names = _module(frame).partition("experiments.")[2].split(".")
        for length in (2, 1):
            if found := SMALLER.get(".".join(names[:length])):
                return found
    return OTHERWISE


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _write_traceback(error: Exception, folder: Path | None) -> str:
    """Writes the traceback to a file, and says where; without room for one, to standard error."""
    text = f"{shlex.join(sys.argv)}\nPython {sys.version}, JAX {jax.__version__}\n\n"
    text += "".join(traceback.format_exception(error))
    name = time.strftime("error-%Y%m%d-%H%M%S-")
    for place in (folder, Path(tempfile.gettempdir())):
        if place is not None and place.is_dir():
            try:
                number, path = tempfile.mkstemp(".log", name, place)
                with open(number, "w", encoding="utf-8") as file:
                    file.write(text)
            except OSError:  # a full disk, or a folder that may only be read
                continue
            return f"the traceback is in {path}"
    print(text, file=sys.stderr, flush=True)
    return "the traceback is above"
