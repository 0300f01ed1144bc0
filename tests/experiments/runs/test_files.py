from pathlib import Path

import numpy as np
import pytest

from experiments.runs import files, hosts


def test_files_are_replaced_and_nothing_else_is_left(tmp_path):
    folder = tmp_path / "new"
    for text in ("one", "two"):
        files.write_text(folder / "a.txt", text)
        files.write_arrays(folder / "b.npz", x=np.arange(3), n=len(text))
        files.write_table(folder / "c.csv", ["name", "value"], [["x, y", 1.5], ["z", text]])
    assert (folder / "a.txt").read_text() == "two"
    assert (folder / "c.csv").read_text() == 'name,value\n"x, y",1.5\nz,two\n'
    with np.load(folder / "b.npz") as file:
        np.testing.assert_array_equal(file["x"], np.arange(3))
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.npz", "c.csv"]


def test_a_file_that_cannot_be_replaced_stays_whole(tmp_path, monkeypatch):
    path, arrays = tmp_path / "a.txt", tmp_path / "b.npz"
    files.write_text(path, "whole")
    files.write_arrays(arrays, x=np.arange(3))

    def fail(*_):
        raise OSError

    monkeypatch.setattr(Path, "replace", fail)
    for write in (
        lambda: files.write_text(path, "half"),
        lambda: files.write_arrays(arrays, x=np.arange(4)),
    ):
        with pytest.raises(OSError):  # noqa: PT011
            write()
    assert path.read_text() == "whole"
    with np.load(arrays) as file:
        assert len(file["x"]) == 3


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    files.write_text(tmp_path / "a.txt", "text")
    files.write_arrays(tmp_path / "b.npz", x=np.arange(3))
    files.write_table(tmp_path / "c.csv", ["x"], [[1]])
    assert not list(tmp_path.iterdir())


def test_damaged_json_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1')
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        files.read_json(path)
    path.write_text('{"a": 1}')
    assert files.read_json(path) == {"a": 1}


def test_a_line_that_a_crash_cut_short_is_dropped(tmp_path):
    path = tmp_path / "a.jsonl"
    assert files.read_lines(path) == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3')
    assert files.read_lines(path) == [{"a": 1}, {"a": 2}]
