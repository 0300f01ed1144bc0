import resource
from contextlib import closing
from typing import ClassVar

import pytest
from PIL import Image

from experiments.runs import files, metrics
from experiments.runs.metrics import Metrics
from experiments.training.options import Training


def test_metrics_after_the_last_checkpoint_are_written_again(tmp_path):
    with closing(Metrics(tmp_path, 0)) as first:
        for step in (10, 20, 30):
            first.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # a crash in the middle of a line
    with closing(Metrics(tmp_path, 20)) as second:
        second.write(30, {"loss": -1.0})
        second.write(30, {"seconds": 0.5}, "timing")
    lines = files.read_lines(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 10), (20, 20), (30, -1)]
    assert files.read_lines(tmp_path / "timing.jsonl") == [{"step": 30, "seconds": 0.5}]
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_metrics_wait_for_room(tmp_path, caplog):
    """No file grows longer than 40 bytes for a while, which is in the middle of a line."""
    path = tmp_path / "metrics.jsonl"
    run = Metrics(tmp_path, 0)
    run.write(1, {"loss": 1.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        run.write(2, {"loss": 2.0})
        run.write(3, {"loss": 3.0})
        for _ in range(20):
            run.write(3, {"seconds": 3.0}, "timing")
        run.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [row["step"] for row in files.read_lines(path)] == [1]
    assert "the last lines of metrics.jsonl cannot be written yet: [Errno 27]" in caplog.text
    run.write(4, {"loss": 4.0})
    run.close()
    assert [row["step"] for row in files.read_lines(path)] == [1, 2, 3, 4]


def test_values_are_kept_for_the_step_that_a_run_continues_from(tmp_path):
    with closing(Metrics(tmp_path, 0, ("jsonl",))) as run:
        assert run.kept == {}
        run.keep(10, {"rows": [1]})
        run.keep(20, {"rows": [2]})
    with closing(Metrics(tmp_path, 10, ("jsonl",))) as run:
        assert run.kept["rows"] == [1]
    with closing(Metrics(tmp_path, 20, ("jsonl",))) as run:
        assert run.kept == {}  # the lines after step 10 are gone


class Remembered:
    """A sink that keeps everything in a list."""

    seen: ClassVar[list] = []

    def __init__(self, folder, step):
        self.seen.append((folder.name, step))

    def write(self, step, values, kind):
        self.seen.append((step, dict(values), kind))

    def picture(self, step, path):
        self.seen.append((step, path))

    def close(self):
        self.seen.append("closed")


def test_a_sink_added_by_one_line_gets_everything(tmp_path, monkeypatch):
    monkeypatch.setitem(metrics.SINKS, "memory", Remembered)
    assert Training(1, 8, sinks=("memory",)).sinks == ("memory",)
    picture = tmp_path / "samples_10.png"
    Image.new("L", (2, 2)).save(picture)
    with closing(Metrics(tmp_path, 5, ("memory", "tensorboard"))) as run:
        run.write(6, {"loss": 1.0})
        run.write(6, {})
        run.write(6, {"seconds": 2.0}, "timing")
        run.picture(10, picture)
    assert Remembered.seen == [
        (tmp_path.name, 5),
        (6, {"loss": 1.0}, "metrics"),
        (6, {"seconds": 2.0}, "timing"),
        (10, picture),
        "closed",
    ]
    assert files.read_lines(tmp_path / "metrics.jsonl") == [{"step": 6, "loss": 1.0}]


class Unreachable:
    """A sink whose server is away."""

    def __init__(self, folder, step):
        pass

    def fail(self, *_):
        raise RuntimeError("no network")

    write = picture = close = fail


def test_a_sink_that_fails_is_a_warning_and_the_others_get_the_values(tmp_path, caplog):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(metrics.SINKS, "away", Unreachable)
        with closing(Metrics(tmp_path, 5, ("away",))) as run:
            run.write(6, {"loss": 1.0})
            run.picture(6, tmp_path / "a.png")
    assert caplog.messages == [
        f"Unreachable has not got {what}: no network"
        for what in ("values of step 6", "the picture of step 6", "the last values")
    ]
    assert files.read_lines(tmp_path / "metrics.jsonl") == [{"step": 6, "loss": 1.0}]


def test_unknown_sinks_are_refused():
    with pytest.raises(ValueError, match=r"config\.training\.sinks.*did you mean 'tensorboard'"):
        metrics.check_sinks(("jsonl", "tensorbord"))
