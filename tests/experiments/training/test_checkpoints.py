import logging
import resource
from contextlib import closing, contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runs.card import CARD
from experiments.training.checkpoints import KEEP, Checkpoints, saved_steps

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


def test_asking_for_saved_steps_makes_no_folder(tmp_path):
    assert saved_steps(tmp_path) == []
    assert not list(tmp_path.iterdir())
    saved(tmp_path, (1, 2)).close()
    assert saved_steps(tmp_path) == [1, 2]


def test_reading_warns_of_nothing(tmp_path, caplog):
    saved(tmp_path, (1,)).close()
    Checkpoints(tmp_path, read_only=True).close()
    assert "read" not in caplog.text


def test_steps_of_the_keep_period_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_period=4)
    for step in range(1, 12):
        checkpoints.save(step, state(step))
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [4, 8, 9, 10, 11]


@pytest.mark.parametrize("kind", [OSError, KeyError])
def test_a_card_comes_and_goes_with_its_checkpoint(tmp_path, caplog, kind):
    """One that cannot be made is missed by nobody but its reader."""

    def describe(step):
        if step == 3:
            raise kind("no room")
        return f"card {step}\n"

    checkpoints = Checkpoints(tmp_path, describe=describe)
    for step in range(1, KEEP + 2):
        checkpoints.save(step, state(step))
    checkpoints.close()
    cards = {path.parent.name: path.read_text() for path in tmp_path.rglob(CARD)}
    assert cards == {"2": "card 2\n", "4": "card 4\n"}
    assert "checkpoint 3 comes without its model card: " in caplog.text
    assert "no room" in caplog.text
    for step in (2, 3, 4):
        restored = Checkpoints(tmp_path, read_only=True).restore(LIKE, step)
        assert restored is not None
        assert int(restored["step"]) == step


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
    for _ in range(2):  # also a second time
        checkpoints.save(2, state(2))
        checkpoints.close()
        again = Checkpoints(tmp_path).restore(LIKE)
        assert again is not None
        assert int(again["step"]) == 2
        truncate(tmp_path / "checkpoints" / "2")
        checkpoints = Checkpoints(tmp_path)
        one = checkpoints.restore(LIKE)
        assert one is not None
        assert int(one["step"]) == 1


def test_only_broken_checkpoints_are_an_error(tmp_path):
    """At every start: they stay in their places, so that nothing begins anew."""
    checkpoints = saved(tmp_path, (1, 2))
    truncate(tmp_path / "checkpoints")
    for again in (checkpoints, Checkpoints(tmp_path)):
        with pytest.raises(ValueError, match=r"none of the checkpoints \[2, 1\] in .* can be read"):
            again.restore(LIKE)


def test_the_result_has_the_shardings_of_like(tmp_path):
    """Which need not be arrays."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    whole = jax.NamedSharding(mesh, jax.P())
    like = {
        "x": jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=rows),
        "step": jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
    }
    restored = saved(tmp_path, (1, 2)).restore(like)
    assert restored is not None
    assert {name: leaf.sharding for name, leaf in restored.items()} == {"x": rows, "step": whole}
    jax.tree.map(np.testing.assert_array_equal, restored, state(2))


@contextmanager
def small_files(limit=100_000):
    """No file grows longer: writing fails far down, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def large(step):
    """Cannot be packed into a small file."""
    return {"x": jax.random.normal(jax.random.key(step), (256, 256))}


def test_failed_writes_are_warnings_and_leave_nothing(tmp_path, caplog):
    checkpoints = saved(tmp_path, (1, 2))
    with small_files():
        for step in (3, 4, 5):
            checkpoints.save(step, large(step))
        checkpoints.save(5, large(5))  # fails once more
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.latest_step() == 2
    checkpoints.save(7, large(7))
    checkpoints.save(8, large(8))
    checkpoints.close()

    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == [
        f"could not save step {step}: File too large; the last good checkpoint is of step 2; "
        "training continues, and the next save tries again"
        for step in (3, 4, 5, 5)
    ]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["2", "7", "8"]
    restored = Checkpoints(tmp_path).restore(large(0))
    jax.tree.map(np.testing.assert_array_equal, restored, large(8))


def test_the_folder_may_go_and_come_back(tmp_path, caplog):
    checkpoints = saved(tmp_path, (1, 2))
    folder, away = tmp_path / "checkpoints", tmp_path / "away"
    folder.rename(away)
    folder.write_text("in the way")
    for step in (3, 4):
        checkpoints.save(step, state(step))
    folder.unlink()
    away.rename(folder)
    checkpoints.save(5, state(5))
    checkpoints.close()
    for step, record in zip((3, 4), caplog.records, strict=True):
        assert f"could not save step {step}: NotADirectoryError: [Errno 20]" in record.getMessage()
    assert checkpoints.steps() == [1, 2, 5]


def test_close_tells_that_the_last_state_is_not_there(tmp_path):
    checkpoints = saved(tmp_path, (1,))
    with small_files():
        checkpoints.save(2, large(2))
        with pytest.raises(OSError, match=r"could not save step 2: .* is of step 1$"):
            checkpoints.close()


def test_close_does_not_hide_what_ended_a_run(tmp_path):
    def train():
        with closing(Checkpoints(tmp_path)) as checkpoints:
            checkpoints.save(2, large(2))
            raise FloatingPointError("loss is nan")

    with small_files(), pytest.raises(FloatingPointError, match="loss is nan"):
        train()
