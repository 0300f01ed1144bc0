import logging

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.checkpoint import KEEP, Checkpoints

LIKE = {"x": jnp.zeros((64, 64)), "step": jnp.zeros((), jnp.int32)}


def state(step):
    return {"x": jnp.full((64, 64), float(step)), "step": jnp.array(step, jnp.int32)}


def saved(folder, steps):
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(step, state(step))
    checkpoints.close()
    return Checkpoints(folder)


def truncate(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_the_newest_is_restored_and_old_ones_go(tmp_path):
    checkpoints = saved(tmp_path, range(1, KEEP + 3))
    restored = checkpoints.restore(LIKE)
    assert restored is not None
    assert int(restored["step"]) == KEEP + 2
    np.testing.assert_array_equal(restored["x"], float(KEEP + 2))
    folders = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert folders == [3, 4, 5]


def test_nothing_is_restored_from_an_empty_folder(tmp_path):
    assert Checkpoints(tmp_path).restore(LIKE) is None


def test_steps_of_the_keep_period_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_period=4)
    for step in range(1, 12):
        checkpoints.save(step, state(step))
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [4, 8, 9, 10, 11]


def test_reading_leaves_the_folder_as_it_is(tmp_path):
    """Also what another process is writing, and what cannot be read."""
    saved(tmp_path, (1, 2)).close()
    folder = tmp_path / "checkpoints"
    truncate(folder / "2")
    (folder / "3.orbax-checkpoint-tmp").mkdir()
    before = sorted(folder.rglob("*"))
    restored = Checkpoints(tmp_path, read_only=True).restore(LIKE)
    assert restored is not None
    assert int(restored["step"]) == 1
    assert sorted(folder.rglob("*")) == before


def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    checkpoints = saved(tmp_path, (1, 2))
    truncate(tmp_path / "checkpoints" / "2")
    with caplog.at_level(logging.WARNING):
        restored = checkpoints.restore(LIKE)
    assert restored is not None
    assert int(restored["step"]) == 1
    assert "checkpoint 2 cannot be read" in caplog.text
    assert (tmp_path / "checkpoints" / "2.unreadable").is_dir()
    checkpoints.save(2, state(2))
    checkpoints.close()
    again = Checkpoints(tmp_path).restore(LIKE)
    assert again is not None
    assert int(again["step"]) == 2


def test_only_broken_checkpoints_are_an_error(tmp_path):
    checkpoints = saved(tmp_path, (1,))
    truncate(tmp_path / "checkpoints" / "1")
    with pytest.raises(ValueError, match="none of the checkpoints"):
        checkpoints.restore(LIKE)
