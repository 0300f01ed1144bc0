import logging
import time

import pytest

from experiments.training import watch


@pytest.fixture
def now(monkeypatch):
    """The time of the clock, as a list of one number that a test may change."""
    time = [0.0]
    monkeypatch.setattr(watch.time, "perf_counter", lambda: time[0])
    return time


def test_times_are_those_of_the_steps(now):
    clock = watch.Clock()
    for seconds in (1.0, 2.0, 9.0):
        with clock.waiting():
            now[0] += 0.5
        now[0] += seconds - 0.5
        clock.step()
    assert clock.read() == pytest.approx(
        {
            "seconds": 4.0,
            "seconds_p50": 2.0,
            "seconds_p95": 8.3,
            "seconds_max": 9.0,
            "seconds_data": 0.5,
        }
    )
    now[0] += 3.0
    clock.step()
    assert clock.read()["seconds"] == 3.0


def test_steps_of_one_program_share_its_time_and_evaluations_are_not_counted(now):
    clock = watch.Clock()
    now[0] += 8.0
    clock.step(4)
    now[0] += 100.0
    clock.restart()
    now[0] += 4.0
    clock.step()
    times = clock.read()
    assert (times["seconds"], times["seconds_max"]) == (2.4, 4.0)


@pytest.mark.thorough
def test_only_a_stage_that_takes_long_is_named_in_a_warning(caplog):
    with caplog.at_level(logging.WARNING), watch.stall_warnings(0.4) as begin:
        for step in range(10):
            begin(f"step {step}: quick")
            time.sleep(0.01)
        begin("step 10: waiting for data")
        time.sleep(0.9)
        begin("step 11: computing")
    assert "step 10: waiting for data: not finished after" in caplog.text
    assert "quick" not in caplog.text
    assert "step 11" not in caplog.text
