"""Checkpoints, written in the background by orbax."""

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any

import jax
import orbax.checkpoint as ocp

from experiments.runs import files, hosts
from experiments.runs.card import CARD

LOG = logging.getLogger(__name__)
KEEP = 3
EMPTY = "averages", ()


@cache
def _hush() -> None:
    """Hides the tracebacks that the threads of orbax print for a failed write.

    The error itself is raised in this process too, so nothing is lost.
    """
    show = sys.unraisablehook

    def unraisable(error) -> None:
        if str(error.exc_value) != "Event loop is closed":  # of writes beside the first that failed
            show(error)

    sys.unraisablehook = unraisable
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(lambda record: not record.exc_info)


@cache
def _hush_reading() -> None:
    """Hides the warnings of orbax that a folder is only read."""
    said = re.compile("read_only=True, setting|Given directory is read only")
    logging.getLogger("absl").addFilter(lambda record: not said.search(str(record.msg)))


class Checkpoints:
    """The checkpoints of a run, a folder each, named by its step.

    Args:
        folder: the run's folder.
        keep_period: multiples of it are kept forever; of the other steps, the last KEEP.
        read_only: change nothing in the folder; another process may be writing to it.
        describe: a function of the step that gives the text of its model card.
    """

    def __init__(
        self,
        folder: Path,
        keep_period: int | None = None,
        read_only: bool = False,
        describe: Callable[[int], str] | None = None,
    ):
        _hush_reading()
        self._folder, self._read_only = folder.absolute() / "checkpoints", read_only
        self._describe = describe
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else KEEP,
            keep_period=keep_period,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            # Otherwise its threads wait 5 minutes for a folder that cannot be made.
            async_options=ocp.AsyncOptions(
                create_directories_asynchronously=False,
                post_finalization_callback=self._write_card,
            ),
        )
        self._manager: ocp.CheckpointManager | None = None
        self._step: int | None = None  # the last step that `save` was called with
        self._good: int | None = None  # the newest saved step before that
        self._problem = ""
        self._open()

    def latest_step(self) -> int | None:
        return max(self.steps(), default=None)

    def save(self, step: int, state: Any) -> None:
        """Starts to write a state, after the previous write has ended. An existing step is kept.

        If this write or the previous one fails, a warning is logged; the next save tries again.
        """
        _hush()
        self.wait()
        self._step = step
        with self._surviving():
            self._good = self.latest_step()
            if step != self._good:
                self._open().save(step, args=ocp.args.StandardSave(_fields(state)))

    def wait(self) -> None:
        """Waits for the last write; logs a warning if it failed."""
        with self._surviving():
            if self._manager:
                self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """The saved steps in order, as the first process sees them.

        A step that is still being written is not among them.
        """
        names = [path.name for path in self._folder.glob("*")]
        return hosts.share(sorted(int(name) for name in names if name.isdigit()))

    def restore(self, like: Any, step: int | None = None, other: Any = None) -> Any | None:
        """The newest state that can be read, as a tree like `like`; None if none was saved.

        With `step`, only the state of that step. A checkpoint that cannot be read is logged. Once
        one before it is read, it is renamed to <step>.unreadable, unless read_only: if none is, the
        fault may be elsewhere, and nothing must begin anew.

        Args:
            like: arrays, or jax.ShapeDtypeStruct; their shardings are those of the result.
            step: of the checkpoint; None: the newest.
            other: likewise; the result is like this if a checkpoint has this structure.

        Raises:
            ValueError: there are checkpoints, and none can be read.
        """
        steps = self.steps()[::-1] if step is None else [step]
        reason = ""
        for number, step in enumerate(steps):
            errors: list[Exception | None] = []
            for tree in (like,) if other is None else (like, other):
                state, error = self._read(step, tree)
                errors.append(error)
                if hosts.everyone(state is not None):
                    self._put_aside(steps[:number])
                    return state
            reason = _reason(errors[0]) if errors[0] else "by another process"
            LOG.warning("checkpoint %d cannot be read, trying the one before: %s", step, reason)
        if steps:
            raise ValueError(
                f"none of the checkpoints {steps} in {self._folder} can be read ({reason}): free "
                "memory or mend the disk if that is the reason, or move the folder away to start "
                "over"
            )
        return None

    def _read(self, step: int, like: Any) -> tuple[Any | None, Exception | None]:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _fields(like))
        try:
            found = self._open().restore(step, args=ocp.args.StandardRestore(abstract))
            return (like._replace(**found) if hasattr(like, "_replace") else found), None
        except Exception as error:  # orbax raises many kinds for a damaged folder
            return None, error

    def _put_aside(self, steps: list[int]) -> None:
        """Renames the checkpoints of these steps, which cannot be read."""
        if self._read_only or not steps:
            return
        if hosts.is_first():
            for step in steps:
                aside = self._folder / f"{step}.unreadable"
                shutil.rmtree(aside, ignore_errors=True)  # of the same step, from before
                (self._folder / str(step)).rename(aside)
        hosts.everyone(True)  # has waited for that
        self._open().reload()

    def close(self) -> None:
        """Waits for the last write.

        Raises:
            OSError: the last state could not be saved. If another error is being raised already,
                that one is kept.
        """
        if sys.exception() is not None and jax.process_count() > 1:
            return  # the others may not come here, and this process ends soon
        with self._surviving():
            if self._manager:
                self._manager.close()
        if self._step is not None and self._step not in self.steps() and sys.exception() is None:
            raise OSError(self._problem)

    def _open(self) -> ocp.CheckpointManager:
        self._manager = self._manager or ocp.CheckpointManager(self._folder, options=self._options)
        return self._manager

    def _unfinished(self) -> Path:
        """The folder being written."""
        return self._folder / f"{self._step}{ocp.utils.TMP_DIR_SUFFIX}"

    def _write_card(self) -> None:
        """Writes the model card, in a thread of orbax, before the folder gets its final name."""
        if self._describe is None or self._step is None:
            return
        try:
            files.write_text(self._unfinished() / CARD, self._describe(self._step))
        except Exception as error:  # raised from here, it would fail the write
            LOG.warning("checkpoint %d comes without its model card: %s", self._step, error)

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Turns a failed write into a warning, and removes its files and its manager.

        Raises:
            OSError: with several processes. The others may be waiting for this one in the middle
                of the write, and would wait forever.
        """
        try:
            yield
        except Exception as error:  # orbax raises many kinds
            manager, self._manager = self._manager, None
            good = "there is none before"
            if self._good is not None:
                good = f"the last good checkpoint is of step {self._good}"
            self._problem = f"could not save step {self._step}: {_reason(error)}; {good}"
            if jax.process_count() > 1:
                raise OSError(self._problem) from error
            if manager:
                with suppress(Exception):  # the same error, once its threads have ended
                    manager.close()
            shutil.rmtree(self._unfinished(), ignore_errors=True)
            LOG.warning("%s; training continues, and the next save tries again", self._problem)


def _fields(state: Any) -> Any:
    """A state as it is saved: its fields by name, but for `averages` without any.

    Checkpoints from before there were several averages have no such field.
    """
    if not hasattr(state, "_asdict"):
        return state
    return {name: value for name, value in state._asdict().items() if (name, value) != EMPTY}


def _reason(error: Exception) -> str:
    """The reason of an error in one line, without the configuration that tensorstore adds."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number:
        return os.strerror(int(number[1]))
    return shorten(f"{type(error).__name__}: {error}", 300)


def saved_steps(folder: Path) -> list[int]:
    """The steps that a run has checkpoints of, in order."""
    if not (folder / "checkpoints").exists():  # looking into it would make it
        return []
    with closing(Checkpoints(folder, read_only=True)) as checkpoints:
        return checkpoints.steps()
