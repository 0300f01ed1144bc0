"""Several processes as one run: how they find each other, and agree."""

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

SHARED_WITHIN = 10  # seconds for a file to be seen by all hosts
LEAVE_WITHIN = 10  # seconds for the others to end too; JAX would wait for minutes


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: int
) -> None:
    """Makes this process one of several, if it is: the first thing to do with JAX.

    Args:
        coordinator: HOST:PORT of process 0; None on a TPU pod and under SLURM, which tell.
        num_processes: how many there are; with a coordinator.
        process_id: which of them this is; with a coordinator.
        timeout: seconds after which the process ends, if the others are not there.

    Raises:
        ValueError: a coordinator without the other two, or the reverse.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ValueError("--coordinator, --num_processes and --process_id belong together")
    if coordinator and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"--coordinator is {coordinator!r}: it must be HOST:PORT")
    if num_processes is not None and not 0 <= (process_id or 0) < num_processes:
        raise ValueError(f"--process_id is {process_id}: it must be 0 to {num_processes - 1}")
    if not any(given) and not _in_cluster():
        return

    def give_up() -> None:  # JAX itself would abort with a stack trace
        waited_for = "all other processes" if process_id == 0 else coordinator or "the coordinator"
        message = f"error: no answer from {waited_for} within {timeout} s (--patience)"
        print(message, file=sys.stderr, flush=True)
        os._exit(1)

    timer = _after(timeout, give_up)
    jax.distributed.initialize(
        coordinator, num_processes, process_id, initialization_timeout=timeout + 60
    )
    timer.cancel()
    sys.excepthook = _fail


def leave(message: str) -> NoReturn:
    """Ends the process with a message, and soon, though the others may not end."""
    if jax.distributed.is_initialized():
        _after(LEAVE_WITHIN, lambda: os._exit(1))
    sys.exit(message)


def _fail(*exception: Any) -> None:
    """What Python does of an exception that nothing catches, and soon ends."""
    _after(LEAVE_WITHIN, lambda: os._exit(1))
    sys.__excepthook__(*exception)


def _after(seconds: float, act: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return timer


def _in_cluster() -> bool:
    """Whether JAX can find out by itself about the other processes."""
    under_slurm = "SLURM_STEP_NODELIST" in os.environ and int(os.environ["SLURM_NTASKS"]) > 1
    # JAX sets the first of these on a TPU's host; the second, where its metadata cannot be asked.
    on_tpu = "TPU_ML_PLATFORM" in os.environ and "TPU_SKIP_MDS_QUERY" not in os.environ
    return under_slurm or on_tpu or "TPU_WORKER_HOSTNAMES" in os.environ


def is_first() -> bool:
    """Whether this process is the one that prints, and writes all but checkpoints."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """The first process's value, everywhere."""
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def share(values: Sequence[int]) -> list[int]:
    """The first process's values, everywhere."""
    n = agree(len(values))
    padded = np.resize(np.asarray(values, int), n)
    return multihost_utils.broadcast_one_to_all(padded).tolist() if n else []


def everyone(fact: bool) -> bool:
    """Whether it is so in all processes; they wait for each other."""
    return bool(np.all(multihost_utils.process_allgather(np.asarray(fact))))


def check_alike(settings: Mapping[str, object]) -> None:
    """Raises ValueError, in all processes and with the differences, unless settings are the same.

    Args:
        settings: what this process was started with, by name; as JSON.
    """
    text = json.dumps(dict(settings)).encode()
    lengths = multihost_utils.process_allgather(np.asarray(len(text)))
    padded = np.frombuffer(text.ljust(lengths.max()), np.uint8)
    texts = np.atleast_2d(multihost_utils.process_allgather(padded))
    settings_of = [json.loads(row.tobytes()) for row in texts]
    first, differing = settings_of[0], []
    for process, theirs in enumerate(settings_of):
        for name in sorted(first.keys() | theirs.keys()):
            if first.get(name) != theirs.get(name):
                was, here = first.get(name), theirs.get(name)
                differing.append(f"\n  {name}: {was!r} in process 0, {here!r} in {process}")
    if differing:
        raise ValueError(f"the processes were started with different{''.join(differing)}")


def check_shared(folder: Path) -> None:
    """Raises ValueError, in all processes, unless all see the same folder."""
    path = folder / f".seen-{agree(random.getrandbits(31))}"
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
    everyone(True)  # has waited for it
    patience = time.monotonic() + SHARED_WITHIN
    while not path.exists() and time.monotonic() < patience:
        time.sleep(0.5)
    seen = multihost_utils.process_allgather(np.asarray(path.exists()))
    if is_first():
        path.unlink()
    if not seen.all():
        raise ValueError(
            f"processes {np.flatnonzero(~seen).tolist()} do not see the {folder} of process 0: "
            "--workdir must be on a file system that all share"
        )
