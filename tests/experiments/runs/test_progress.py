import re
import time

import pytest

from experiments.runs import hosts, progress


@pytest.fixture
def soon(monkeypatch, caplog):
    """Lines come after 0.05 s; caplog has them."""
    monkeypatch.setattr(progress, "LINES_AFTER", 0.05)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.05)
    caplog.set_level("INFO", "experiments")


def test_without_a_terminal_long_work_logs_lines_with_the_time_left(soon, caplog):
    with progress.working("encoding", 3, "batch") as bar:
        bar.update()
        bar.update()
        while not caplog.messages:
            time.sleep(0.01)
    line = r"encoding: batch 2 of 3, \d+ s, time left \d\d:\d\d:\d\d"
    assert re.fullmatch(line, caplog.messages[0])


def test_work_without_a_total_logs_its_seconds(soon, caplog):
    with progress.working("compiling"):
        while len(caplog.messages) < 2:
            time.sleep(0.01)
    assert re.fullmatch(r"compiling: \d+ s", caplog.messages[1])


def test_lines_come_as_often_as_asked_for(soon, caplog, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 60.0)
    with progress.working("timing", 2, "run", every=0.02):
        while len(caplog.messages) < 3:
            time.sleep(0.01)
    assert re.fullmatch(r"timing: run 0 of 2, \d+ s", caplog.messages[2])


def test_progress_shows_the_share_of_the_item_in_work():
    with progress.working("sampling", 4, "batch") as bar:
        progress.show_share(0.256)
        assert bar.shown == 0.26
        bar.update()
        assert (bar.n, bar.shown) == (1, 1)
        progress.show_share(0.5)
        progress.show_share(0.1)  # of the next computation: it never falls
        assert bar.shown == 1.5
    progress.show_share(0.7)


def test_one_long_computation_logs_its_share(soon, caplog):
    with progress.working("log-likelihood"):
        progress.show_share(0.25)
        while not caplog.messages:
            time.sleep(0.01)
    assert re.fullmatch(r"log-likelihood: 25%, \d+ s, time left .*", caplog.messages[0])


def test_short_work_is_silent(caplog, capsys):
    caplog.set_level("INFO", "experiments")
    assert list(progress.track([1, 2, 3], "sampling")) == [1, 2, 3]
    assert list(progress.track(iter([1, 2]), "sampling")) == [1, 2]
    assert not caplog.messages
    assert capsys.readouterr() == ("", "")


def test_an_empty_title_shows_nothing(soon, caplog):
    for _ in progress.track([1, 2], ""):
        time.sleep(0.1)
    assert not caplog.messages


def test_only_the_first_process_logs_lines(soon, caplog, monkeypatch):
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    for _ in progress.track([1, 2], "sampling"):
        time.sleep(0.1)
    assert not caplog.messages


def test_a_terminal_shows_a_bar_and_no_lines(soon, caplog, capsys, monkeypatch):
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    monkeypatch.setattr(progress, "QUIET_FOR", 0.0)
    with progress.working("encoding", 4, "batch") as bar:
        bar.update(1)
        bar.bar.refresh()
        time.sleep(0.1)
    assert re.search(r"encoding:  25%.* 1/4 ", capsys.readouterr().err)
    assert not caplog.messages


def test_an_error_ends_the_display(soon, caplog):
    with pytest.raises(ValueError, match="wrong"), progress.working("sampling"):
        raise ValueError("wrong")
    time.sleep(0.1)
    assert not caplog.messages
