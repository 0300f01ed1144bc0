"""What a process says when it ends with an error, and the file with the traceback."""

import importlib.util
import json
import os
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import edge, main

LOCATED = {"x": 1}


def caught(act):
    """The exception that a function raises."""
    with pytest.raises(Exception) as error:  # noqa: PT011
        act()
    return error.value


def said(error, folder):
    """The message of an error, and the traceback in the file that it names, if any."""
    text = edge.message(error, folder)
    logs = list(folder.glob("error-*.log"))
    assert ("traceback" in text) == bool(logs)
    assert all(str(path) in text for path in logs)
    return text, "".join(path.read_text() for path in logs)


def raised_in(module, error):
    """The exception, as if a function of that module had raised it."""
    scope = {"__name__": module, "error": error.with_traceback(None)}
    exec("def act():\n    raise error", scope)
    return caught(scope["act"])


def fail():
    raise ValueError("config.model.nf is 0:\nit must be at least 1")


def missing():
    Path("/none/there.npz").read_bytes()


@pytest.mark.parametrize(
    ("act", "message"),
    [(fail, "config.model.nf is 0:\nit must be at least 1"), (missing, "/none/there.npz")],
)
def test_an_error_that_explains_itself_needs_no_traceback(tmp_path, act, message):
    text, log = said(caught(act), tmp_path)
    assert message in text
    assert log == ""


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: LOCATED["y"], "KeyError: y"),
        (lambda: LOCATED.y, "AttributeError: 'dict' object has no attribute 'y'"),
        (lambda: np.ones(3).reshape(2, 2), "ValueError: cannot reshape array of size 3"),
        (lambda: json.loads("{"), "JSONDecodeError: Expecting property name"),
        (lambda: "日本".encode("latin-1"), "UnicodeEncodeError: 'latin-1' codec can't encode"),
        (lambda: jax.numpy.ones(3) @ jax.numpy.ones(4), "TypeError: dot_general requires"),
    ],
)
def test_any_other_error_is_one_line_and_a_file(tmp_path, act, message):
    text, log = said(caught(act), tmp_path)
    assert text.startswith(message)
    assert "\n" not in text
    assert "Traceback (most recent call last)" in log
    assert Path(__file__).name in log


def test_a_long_message_of_a_library_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert len(edge.message(raised_in("orbax", KeyError("x" * 5000)), None)) < 1000
    text, log = said(raised_in("orbax.checkpoint", KeyError("first\n" + "second " * 99)), tmp_path)
    assert text.startswith("KeyError: first (the traceback is in")
    assert "second second" in log


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        ("experiments.training.step", "raise config.training.n_microbatches, or lower config.tra"),
        ("experiments.training.state", "lower config.model.nf"),
        ("experiments.pipeline.draw", "lower config.sampling.batch_size"),
        ("experiments.pipeline.likelihood", "lower config.eval.batch_size"),
        ("experiments.data.sources.npz", "config.data.image_size"),
        ("elsewhere", "config.eval.batch_size, if it evaluates; lower config.sampling.batch_size"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8 TiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nHLO"),
        jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    ],
)
def test_out_of_memory_names_the_field_to_lower(tmp_path, module, advice, error):
    text, _ = said(raised_in(module, error), tmp_path)
    assert text.startswith("out of memory (")
    assert advice in text
    assert "--mode=plan" in text
    assert "\n" not in text


def test_the_modules_with_an_advice_exist():
    assert all(importlib.util.find_spec(f"experiments.{name}") for name in edge.SMALLER)


def test_the_traceback_goes_where_there_is_a_folder_that_can_be_written(
    tmp_path, monkeypatch, capsys
):
    """First the run's folder, then that of temporary files, then the terminal."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for folder in (None, tmp_path / "none"):
        assert f"the traceback is in {temporary}/error-" in edge.message(KeyError("x"), folder)
    assert not (tmp_path / "none").exists()

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(edge.tempfile, "mkstemp", full)
    text = edge.message(caught(lambda: LOCATED["y"]), tmp_path)
    assert text == "KeyError: y (the traceback is above)"
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("number", edge.NO_ROOM)
def test_a_full_disk_or_quota_is_named(tmp_path, number):
    text, _ = said(
        raised_in("orbax", ValueError(f"Failed to write: {number} [os_error]")), tmp_path
    )
    assert text.startswith("the disk is full; the checkpoint before is good: make room")


def test_the_process_leaves_its_traceback_in_the_run_s_folder(tmp_path, monkeypatch):
    def broken(_):
        raise RuntimeError("no cuDNN")

    monkeypatch.setattr(main, "main", broken)
    monkeypatch.setattr(main.sys, "argv", ["main", "--workdir", str(tmp_path), "--config.zzz=1"])
    with pytest.raises(SystemExit, match=rf"error: RuntimeError: no cuDNN .*{tmp_path}/error-"):
        main.run()
    (path,) = tmp_path.glob("error-*.log")
    assert path.read_text().startswith(f"main --workdir {tmp_path} --config.zzz=1\n")
