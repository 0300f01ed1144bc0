"""Compiled functions whose long loops run in segments of about a second, with their progress."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.runs import devices, hosts, progress
from sde_lib import loops
from sde_lib.checks import known

SECONDS = 1.0  # that a segment takes
FIRST_STEPS = 8  # the first segment's; its time decides on the length of the others


class InSegments:
    """fn(*args), compiled, whose loops (sde_lib.loops) run in segments.

    The result is that of one program, to the last bit. The next segment starts before the last one
    is waited for, so the device is never idle; the call returns before its last segment is done. On
    a CPU, a call in five segments takes 0.2 ms more than one program.
    All hosts run segments of the same length. Inside another compiled function it is fn alone.
    """

    def __init__(self, fn: Callable, mesh: Mesh):
        self._fn, self._mesh, self._n_loops = fn, mesh, 0
        self._steps: dict[int, int] = {}  # of a segment, by the number of the loop
        begin, advance = loops.cut(fn)
        self._begin = jax.jit(lambda *args: self._placed(begin(*args)))
        self._advance = jax.jit(lambda *args: self._placed(advance(*args)))

    def __call__(self, *args: Any) -> Any:
        if not known(*args):
            return self._fn(*args)
        ended: tuple = ()
        while isinstance(segment := self._begin(ended, *args), loops.Segment):
            ended += (self._last_state(ended, segment, args),)
        return segment

    def _last_state(self, ended: tuple, segment: loops.Segment, args: tuple) -> Any:
        """The state after all steps of the loop that begins with this segment."""
        loop = len(ended)
        segment = self._advance(ended, segment.state, self._n_steps(loop), *args)
        began = time.monotonic()
        while True:
            following = self._advance(ended, segment.state, self._n_steps(loop), *args)
            unfinished, share = jax.device_get((segment.unfinished, segment.share))
            if unfinished and loop not in self._steps:
                seconds = max(time.monotonic() - began, 1e-6)
                steps = max(1, int(FIRST_STEPS * SECONDS / seconds))
                self._steps[loop] = hosts.agree(steps)
            # Counting traces the function again, while the device is at the next segment.
            self._n_loops = self._n_loops or loops.count(self._fn, *args)
            progress.show_share((loop + float(share)) / self._n_loops)
            if not unfinished:
                return following.state
            segment = following

    def lower(self, *args: Any) -> Any:
        """The lowered program of a segment of the first loop, or of a function without one."""
        segment = jax.eval_shape(self._begin, (), *args)
        if not isinstance(segment, loops.Segment):
            return self._begin.lower((), *args)
        return self._advance.lower((), segment.state, self._n_steps(0), *args)

    def _n_steps(self, loop: int) -> np.int32:
        return np.int32(self._steps.get(loop, FIRST_STEPS))

    def _placed(self, segment: Any) -> Any:
        """Inside jit: the segment, its state spread over the devices as the next one takes it.

        The first axis that they divide is split: that of the batch or, in an array with a row for
        each of several evaluations, the second one.
        """
        if not isinstance(segment, loops.Segment):
            return segment

        def place(leaf: jax.Array) -> jax.Array:
            axes = (axis for axis, n in enumerate(leaf.shape[:2]) if n and n % self._mesh.size == 0)
            axis = next(axes, None)
            whole = NamedSharding(self._mesh, P())
            sharding = whole if axis is None else devices.batch_sharding(self._mesh, axis)
            return jax.lax.with_sharding_constraint(leaf, sharding)

        return segment._replace(state=jax.tree.map(place, segment.state))
