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


def changed(content: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    """The content with every place at an offset from a mark replaced."""
    at = content.find(mark)
    while at >= 0:
        content = content[: at + offset] + value + content[at + offset + len(value) :]
        at = content.find(mark, at + 4)
    return content


def unchecked(content: bytes) -> bytes:
    """A damaged deflated member whose checksum nobody reaches: zlib itself fails."""
    start = content.find(b"PK\3\4")
    data = start + 30 + int.from_bytes(content[start + 26 : start + 28], "little")
    data += int.from_bytes(content[start + 28 : start + 30], "little")
    return content[:data] + b"\xff" * 40 + content[data + 40 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: changed(file, b"PK\1\2", 0, b"\0"), "cannot be read: Bad magic number"),
        (lambda file: changed(file, b"PK\1\2", 8, b"\1"), "'a', cannot be read: .* encrypted"),
        (lambda file: changed(file, b"PK\1\2", 10, b"\x09"), "compression method is not support"),
        (lambda file: changed(file, b"PK\3\4", 60, b"?"), "array 'a', cannot be read: "),
        (unchecked, "array 'a', cannot be read: Error -3"),
        (lambda file: file[:-30], "it is no .npz file, or cut short"),
        (lambda file: b"text", "it is no .npz file"),
        (lambda file: b"", "it is no .npz file"),
    ],
)
def test_damaged_arrays_are_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.random.RandomState(0).randint(9, size=(40, 40)))
    path.write_bytes(change(path.read_bytes()))
    with (
        pytest.raises(ValueError, match=rf"a\.npz.*{message}.*; give a good one") as error,
        files.open_arrays(path, "a good one") as arrays,
    ):
        dict(arrays)
    assert "\n" not in str(error.value)


def test_arrays_are_read_when_they_are_asked_for(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(3), bad=None)
    with files.open_arrays(path, "a good one") as arrays:
        assert ("bad" in arrays, "c" in arrays, len(arrays)) == (True, False, 2)
        np.testing.assert_array_equal(arrays["a"], np.arange(3))
        with pytest.raises(ValueError, match="'bad', cannot be read: it holds Python objects"):
            arrays["bad"]
        with pytest.raises(ValueError, match="'c', cannot be read"):
            arrays["c"]
    with (
        pytest.raises(ValueError, match=r"none\.npz cannot be read: .*No such file"),
        files.open_arrays(tmp_path / "none.npz", "a good one"),
    ):
        pass


def test_errors_of_readers_become_one_line():
    with (
        pytest.raises(ValueError, match=r"^x cannot be read: RecursionError; give y$"),
        files.reading("x", "y"),
    ):
        raise RecursionError
    with (
        pytest.raises(ValueError, match=r"^x cannot be read: a b; give y$"),
        files.reading("x", "y"),
    ):
        raise OSError("a\nb")


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
    path.write_bytes(b'{"a": 1}\n\0\0\0\n{"a"\n7\n\xff\n{}\n')  # after a power cut
    assert files.read_lines(path) == [{"a": 1}, {}]
