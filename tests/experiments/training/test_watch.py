import logging
import time

import pytest

from experiments.training import watch


def test_times_are_those_of_the_steps(monkeypatch):
    now = 0.0
    monkeypatch.setattr(watch.time, "perf_counter", lambda: now)
    clock = watch.Clock()
    for seconds in (1.0, 2.0, 9.0):
        with clock.waiting():
            now += 0.5
        now += seconds - 0.5
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
    now += 3.0
    clock.step()
    assert clock.read()["seconds"] == 3.0


def test_what_takes_long_is_named_and_what_goes_on_is_not(caplog):
    with caplog.at_level(logging.WARNING), watch.stall_warnings(0.2) as begin:
        for step in range(10):
            begin(f"step {step}: quick")
            time.sleep(0.01)
        begin("step 10: waiting for data")
        time.sleep(0.5)
        begin("step 11: computing")
    assert "step 10: waiting for data" in caplog.text
    assert "quick" not in caplog.text
    assert "step 11" not in caplog.text
