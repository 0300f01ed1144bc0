"""A run of several processes: they find each other, agree on values, and end together."""

import itertools
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

SHARED_WITHIN = 10  # seconds until all hosts see a new file
MEET_WITHIN = 600  # seconds until all processes are through with an evaluation, or never will be
MEETINGS = itertools.count()
LEAVE_WITHIN = 10  # seconds until this process ends after an error; JAX would wait for minutes


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: int
) -> None:
    """Joins the other processes of a run, if there are any. JAX must not have started before.

    Args:
        coordinator: HOST:PORT of process 0; None alone, on a TPU pod and under SLURM.
        num_processes: number of processes; with a coordinator.
        process_id: number of this process, from 0 on; with a coordinator.
        timeout: seconds after which this process ends if it has not found the others.

    Raises:
        ValueError: some of the first three without the others, or an impossible one.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ValueError(
            "--coordinator, --num_processes and --process_id belong together: give all"
        )
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


def leave(message: str) -> NoReturn:
    """Ends this process with a message, within LEAVE_WITHIN seconds even if the others run on."""
    if jax.distributed.is_initialized():
        _after(LEAVE_WITHIN, lambda: os._exit(1))
    sys.exit(message)


def _after(seconds: float, act: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return timer


def _in_cluster() -> bool:
    """True if JAX can find the other processes by itself."""
    under_slurm = "SLURM_STEP_NODELIST" in os.environ and int(os.environ["SLURM_NTASKS"]) > 1
    # JAX sets TPU_ML_PLATFORM on a TPU's host, and TPU_SKIP_MDS_QUERY where it has no metadata.
    on_tpu = "TPU_ML_PLATFORM" in os.environ and "TPU_SKIP_MDS_QUERY" not in os.environ
    return under_slurm or on_tpu or "TPU_WORKER_HOSTNAMES" in os.environ


def is_first() -> bool:
    """True for the process that prints, and that writes all files but checkpoints."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """The first process's value, in every process."""
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def share(values: Sequence[int]) -> list[int]:
    """The first process's values, in every process."""
    n = agree(len(values))
    padded = np.resize(np.asarray(values, int), n)
    return multihost_utils.broadcast_one_to_all(padded).tolist() if n else []


def everywhere(facts: np.ndarray) -> np.ndarray:
    """True for each fact that is true in all processes."""
    if jax.process_count() == 1:
        return facts
    return np.all(multihost_utils.process_allgather(facts), axis=0)


def everyone(fact: bool) -> bool:
    """True if the fact is true in all processes, which wait for each other."""
    return bool(np.all(multihost_utils.process_allgather(np.asarray(fact))))


def meet() -> bool:
    """True once all processes have come here; False if one does not within MEET_WITHIN seconds.

    No device takes part: it works, and ends, also where one process has left a computation of all.
    """
    if jax.process_count() == 1:
        return True
    from orbax.checkpoint import multihost  # takes a second: commands of one process do without

    try:
        multihost.get_barrier_sync_fn()(key=f"met-{next(MEETINGS)}", timeout_ms=1000 * MEET_WITHIN)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def check_alike(settings: Mapping[str, object]) -> None:
    """Raises ValueError in all processes, with the differences, unless their settings are the same.

    Args:
        settings: flags and config fields of this process by name, as JSON can hold them.
    """
    text = json.dumps(dict(settings)).encode()
    lengths = multihost_utils.process_allgather(np.asarray(len(text)))
    padded = np.frombuffer(text.ljust(lengths.max()), np.uint8)
    texts = np.atleast_2d(multihost_utils.process_allgather(padded))
    first, *others = (json.loads(row.tobytes()) for row in texts)
    differing = [
        f"\n  {name}: {first.get(name)!r} in process 0, {theirs.get(name)!r} in {process}"
        for process, theirs in enumerate(others, 1)
        for name in sorted(first.keys() | theirs.keys())
        if first.get(name) != theirs.get(name)
    ]
    if differing:
        raise ValueError(
            f"the processes were started with different settings:{''.join(differing)}\n"
            "start all of them with the same flags"
        )


def check_shared(folder: Path) -> None:
    """Raises ValueError in all processes unless all of them see the same folder."""
    path = folder / f".seen-{agree(random.getrandbits(31))}"
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
    everyone(True)  # waits for the first process
    patience = time.monotonic() + SHARED_WITHIN
    while not path.exists() and time.monotonic() < patience:
        time.sleep(0.5)
    seen = multihost_utils.process_allgather(np.asarray(path.exists()))
    if is_first():
        path.unlink()
    if not seen.all():
        raise ValueError(
            f"processes {np.flatnonzero(~seen).tolist()} do not see the {folder} of process 0: "
            "give a --workdir on a file system that all of them share"
        )
