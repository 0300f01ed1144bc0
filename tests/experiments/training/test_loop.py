import logging
import signal
from contextlib import closing

import jax
import numpy as np
import pytest
from toys import MESH, Toy, first_state, options, program

from experiments.runs import files
from experiments.training import loop
from experiments.training.checkpoints import Checkpoints
from experiments.training.step import make_batches

TOY = Toy()


@pytest.fixture(scope="module")
def step():
    """The compiled step of all trainings here."""
    return program(TOY, options())


def samples(training, bad=()):
    """Points, once each over a training; those of the bad steps, counted from 1, are not finite."""
    n = training.n_iters * training.batch_size
    x = np.random.RandomState(0).randn(n, 2).astype(np.float32)
    order = np.random.RandomState([training.seed, 0]).permutation(n)
    for k in bad:
        x[order[(k - 1) * training.batch_size : k * training.batch_size]] = np.nan
    return x, {}


def fit(step, training, folder, bad=(), **arguments):
    """The last state of a training in a folder, continued if it has begun there."""
    with closing(Checkpoints(folder)) as checkpoints:
        state = checkpoints.restore(first_state(TOY)) or first_state(TOY)
        batches = make_batches(samples(training, bad), training, MESH, int(state.step))
        state, _ = loop.fit(training, step, state, batches, checkpoints, folder, **arguments)
        checkpoints.save(int(state.step), state)
    return state


def lines(folder, name="metrics.jsonl"):
    return files.read_lines(folder / name)


def restore(folder, step=None):
    state = Checkpoints(folder, read_only=True).restore(first_state(TOY), step)
    assert state is not None
    return state


@pytest.mark.thorough
def test_a_step_that_is_not_finite_is_skipped_and_counted(step, tmp_path, caplog):
    training = options(max_skipped=2, snapshot_freq_for_preemption=1)
    fit(step, training, tmp_path, bad=(4, 7))
    assert [line["skipped"] for line in lines(tmp_path)] == [1, 1]
    assert "step 7 is skipped" in caplog.text
    before, after, later = (restore(tmp_path, k).params for k in (6, 7, 8))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert (after["mean"] != later["mean"]).all()


@pytest.mark.thorough
def test_many_such_steps_in_a_row_stop_the_run_and_keep_the_last_good_weights(step, tmp_path):
    changes = {"n_iters": 20, "max_skipped": 4, "snapshot_freq_for_preemption": 3}
    training, bad = options(**changes), range(4, 21)
    with pytest.raises(FloatingPointError, match="gradient from step 4 to 7: stopped"):
        fit(step, training, tmp_path, bad)
    with pytest.raises(FloatingPointError, match="from step 10 to 13"):
        fit(step, training, tmp_path, bad)
    good = fit(step, options(**changes | {"max_skipped": 100}), tmp_path / "good", bad)
    state = restore(tmp_path)
    assert np.isfinite(good.params["mean"]).all()
    jax.tree.map(np.testing.assert_array_equal, state.params, good.params)
    assert int(state.step) < 20


@pytest.mark.thorough
def test_lines_are_means_of_their_steps_and_times_come_with_the_learning_rate(step, tmp_path):
    one, four = options(log_freq=1), options(log_freq=4)
    for name, training in (("one", one), ("four", four)):
        fit(step, training, tmp_path / name)
    losses = np.array([line["loss"] for line in lines(tmp_path / "one")])
    np.testing.assert_allclose(
        [line["loss"] for line in lines(tmp_path / "four")], losses.reshape(2, 4).mean(1), rtol=1e-6
    )
    timing = lines(tmp_path / "four", "timing.jsonl")
    assert [line["step"] for line in timing] == [4, 8]
    assert all(line["learning_rate"] == one.optimizer.rate(line["step"]) for line in timing)
    assert timing[0].keys() >= {"seconds", "seconds_p95", "seconds_data", "devices"}


def test_a_stopped_run_keeps_its_line_and_makes_up_for_its_evaluation(step, tmp_path):
    """It stops between two lines of metrics, where an evaluation is due; then it crashes once."""
    training = options(eval_freq=3, snapshot_freq_for_preemption=100)

    def evaluation(step, state):
        return {"eval_x": float(state.params["mean"][0])}

    def crash(k, state):
        raise KeyboardInterrupt

    periodic = [(3, evaluation)]
    fit(step, training, tmp_path / "whole", periodic=periodic)
    parts = tmp_path / "parts"
    state = fit(step, training, parts, periodic=periodic, stop=lambda n: n == 3)
    assert int(state.step) == 3
    assert lines(parts) == []
    with pytest.raises(KeyboardInterrupt):  # after the evaluation at step 3
        fit(step, training, parts, periodic=[*periodic, (4, crash)])
    fit(step, training, parts, periodic=periodic)
    assert lines(parts) == lines(tmp_path / "whole")
    assert [line["step"] for line in lines(parts)] == [3, 4, 6, 8]


@pytest.mark.parametrize("kind", [OSError, RuntimeError, KeyError, MemoryError])
def test_a_failing_evaluation_is_a_warning(step, tmp_path, caplog, kind):
    def evaluation(step, state):
        raise kind("disk full")

    state = fit(step, options(), tmp_path, periodic=[(4, evaluation)])
    assert int(state.step) == 8
    assert "step 4: no evaluation: " in caplog.text
    assert "disk full" in caplog.text


def broken(batches, at):
    """The batches; reading the one of step `at` fails."""
    for k, batch in enumerate(batches, 1):
        if k == at:
            raise RuntimeError("a damaged image")
        yield batch


def test_whatever_ends_a_training_its_state_is_saved(step, tmp_path, caplog, monkeypatch):
    """The next start goes on as if nothing had been."""
    training = options(log_freq=4, eval_freq=3, snapshot_freq_for_preemption=100)
    periodic = [(3, lambda k, state: {"eval_x": float(state.params["mean"][0])})]
    fit(step, training, tmp_path / "whole", periodic=periodic)
    parts, make = tmp_path / "parts", make_batches
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "make_batches", lambda *a: broken(make(*a), 7))
        with pytest.raises(RuntimeError, match="a damaged image"):
            fit(step, training, parts, periodic=periodic)
    assert Checkpoints(parts, read_only=True).steps() == [6]
    assert "saving step 6, where the next start goes on" in caplog.text
    state = fit(step, training, parts, periodic=periodic)
    jax.tree.map(np.testing.assert_array_equal, state, restore(tmp_path / "whole"))
    assert lines(parts) == lines(tmp_path / "whole")


def taken(state):
    """The state's memory is gone, as that of an argument that a failed step was given."""
    jax.tree.map(lambda leaf: leaf.delete(), state)
    raise RuntimeError("out of memory")


def unreadable(state):
    """The state is a result of a program that fails while it runs."""

    def fail(x):
        raise RuntimeError("out of memory")

    shape = jax.ShapeDtypeStruct((2,), np.float32)
    mean = jax.jit(lambda x: jax.pure_callback(fail, shape, x))(state.params["mean"])
    return state._replace(params=state.params | {"mean": mean})


def not_finite(state):
    return state._replace(params=state.params | {"mean": state.params["mean"] * np.nan})


@pytest.mark.parametrize("fail", [taken, unreadable, not_finite])
def test_a_state_that_a_failure_spoilt_is_not_saved(step, tmp_path, caplog, fail):
    def program(state, *batch):
        state, values = step(state, *batch)
        return (fail(state) if int(state.step) == 6 else state), values

    training = options(snapshot_freq_for_preemption=4)

    def stop(n):
        if n == 6:
            raise RuntimeError("after the step")
        return False

    with pytest.raises(RuntimeError):
        fit(program, training, tmp_path, stop=stop)
    assert "only the last checkpoint is left" in caplog.text
    assert Checkpoints(tmp_path, read_only=True).steps() == [4]
    state = fit(step, training, tmp_path)
    assert int(state.step) == 8
    assert np.isfinite(state.params["mean"]).all()


def test_a_failure_of_the_first_step_saves_nothing(tmp_path):
    def program(state, *batch):
        raise ValueError("an impossible network")

    with pytest.raises(ValueError, match="an impossible network"):
        fit(program, options(), tmp_path)
    assert Checkpoints(tmp_path, read_only=True).steps() == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_asks_to_stop_and_a_second_one_acts_as_before(name):
    got, number = [], getattr(signal, name)
    previous = signal.signal(number, lambda *_: got.append(1))
    try:
        with loop.stop_signals() as stop:
            assert not stop(1)
            signal.raise_signal(number)
            assert stop(2)
            assert got == []
            signal.raise_signal(number)
            assert got == [1]
    finally:
        signal.signal(number, previous)


def test_a_hangup_that_is_ignored_stays_ignored():
    """As under nohup."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with loop.stop_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop(1)
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_progress_is_logged_where_nobody_watches(step, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        fit(step, options(), tmp_path)
    assert "step 4 of 8: loss " in caplog.text
