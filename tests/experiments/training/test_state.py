from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from toys import MESH, Toy, first_state, options, program

from experiments.training import state
from experiments.training.checkpoints import Checkpoints
from experiments.training.optimizer import Adam
from experiments.training.schedules import InverseSqrt
from experiments.training.step import make_batches


@pytest.mark.parametrize("freeze", [(), ("unused",)])
@pytest.mark.parametrize(
    ("before", "after"), [(0, 5), (5, 0), (5, 7), (0, InverseSqrt(3)), (InverseSqrt(3), 0)]
)
def test_warm_up_and_schedules_may_come_and_go(tmp_path, before, after, freeze):
    """An optimizer that begins to count its steps begins at that of the state."""

    def toy(rate):
        options = {"warmup": rate} if isinstance(rate, int) else {"warmup": 0, "schedule": rate}
        return Toy(Adam(lr=0.1, **options, freeze=freeze))

    one, other = toy(before), toy(after)
    saved = first_state(one)._replace(step=jax.numpy.asarray(9, "int32"))
    like = state.abstract_state(other, 0, MESH)
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert state.restore(checkpoints, other, like) is None
        checkpoints.save(9, saved)
    with closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        found = state.restore(checkpoints, other, like)
    assert found is not None
    assert jax.tree.structure(found) == jax.tree.structure(like)
    jax.tree.map(np.testing.assert_array_equal, found.params, saved.params)
    if before == 0:
        adam = found.opt_state.inner_states[False].inner_state if freeze else found.opt_state
        assert int(adam[1][2].count) == 9
    training = options(n_iters=10, optimizer=other.adam)
    x = np.zeros((100, 2), np.float32), {}
    new, _ = program(other, training)(found, *next(make_batches(x, training, MESH, 9)))
    assert int(new.step) == 10


def test_a_checkpoint_that_is_damaged_is_not_taken_for_one_of_the_other_kind(tmp_path, caplog):
    toy = Toy(Adam(lr=0.1, warmup=5))
    with closing(Checkpoints(tmp_path)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, first_state(toy)._replace(step=jax.numpy.asarray(step, "int32")))
    for path in (tmp_path / "checkpoints" / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    with closing(Checkpoints(tmp_path)) as checkpoints:
        found = state.restore(checkpoints, toy, state.abstract_state(toy, 0, MESH))
    assert found is not None
    assert int(found.step) == 1
    assert "checkpoint 2 cannot be read" in caplog.text


class OldState(NamedTuple):
    """The state as it was when there was one average alone."""

    step: Any
    params: Any
    ema_params: Any
    opt_state: Any


def test_checkpoints_from_before_there_were_several_averages_can_be_read(tmp_path):
    saved = first_state(Toy())
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, OldState(*saved[:4]))
    with closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        found = state.restore(checkpoints, Toy(), state.abstract_state(Toy(), 0, MESH))
    assert found is not None
    assert jax.tree.structure(found) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, found, saved)


def test_several_averages_are_kept(tmp_path):
    like = state.abstract_state(Toy(), 0, MESH, n_averages=3)
    saved = state.init_state(Toy(), 0, like)
    saved = saved._replace(averages=jax.tree.map(lambda leaf: leaf + 1, saved.averages))
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, saved)
    with closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        found = state.restore(checkpoints, Toy(), like)
    assert found is not None
    assert len(found.averages) == 2
    jax.tree.map(np.testing.assert_array_equal, found, saved)
