"""Checkpoints, written in the background by orbax; the only file that knows orbax."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

LOG = logging.getLogger(__name__)
KEEP = 3


class Checkpoints:
    """The checkpoints of a run, a folder each, named by its step.

    Args:
        workdir: the run's folder.
        keep_period: steps that it divides stay for good; of the others, the last KEEP.
        read_only: leave the folder as it is: it may be another process that writes there.
    """

    def __init__(self, workdir: Path, keep_period: int | None = None, read_only: bool = False):
        self._folder, self._read_only = workdir.absolute() / "checkpoints", read_only
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else KEEP,
            keep_period=keep_period,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Starts writing; waits only for the write before it. A step that is there stays."""
        if step != self._manager.latest_step():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def steps(self) -> list[int]:
        """The steps that are there, in order."""
        return sorted(self._manager.all_steps())

    def restore(self, like: Any, step: int | None = None) -> Any | None:
        """The newest state that can be read, as a tree like `like`; None if there never was one.

        With `step`, the state of that step and no other.

        A checkpoint that cannot be read is renamed to <step>.unreadable unless read_only, with a
        warning.

        Raises:
            ValueError: there are checkpoints, and none can be read.
        """
        steps = self.steps()[::-1] if step is None else [step]
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        for step in steps:
            try:
                return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            except Exception as error:  # orbax raises many kinds for a damaged folder
                LOG.warning("checkpoint %d cannot be read, trying the one before: %s", step, error)
                if not self._read_only:
                    (self._folder / str(step)).rename(self._folder / f"{step}.unreadable")
                    self._manager.reload()
        if steps:
            raise ValueError(
                f"none of the checkpoints {steps} in {self._folder} can be read: "
                "move the folder away to start over"
            )
        return None

    def close(self) -> None:
        """Waits for the last write."""
        self._manager.wait_until_finished()
        self._manager.close()
