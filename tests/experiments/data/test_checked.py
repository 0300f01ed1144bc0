import numpy as np

from experiments.data.checked import Checked, marks


def test_marks_differ_with_files_and_what_they_are_checked_for():
    first, second = marks("album", ["a 1", "a 2"]), marks("album (8, 8)", ["a 1", "a 2"])
    assert len({*first.tolist(), *second.tolist()}) == 4
    np.testing.assert_array_equal(marks("album", ["a 1", "a 2"]), first)
    assert len(marks("album", ["\udce4"])) == 1  # a file's name that is no UTF-8


def test_marks_add_up_and_survive_a_damaged_file(tmp_path):
    path, files = tmp_path / "new" / "album", marks("", "abc")
    Checked(path).keep(files[:1])
    Checked(path).keep(files[1:2])
    np.testing.assert_array_equal(Checked(path).know(files), [True, True, False])
    path.write_bytes(path.read_bytes()[:11])
    assert Checked(path).know(files).sum() == 1
    assert [file.name for file in path.parent.iterdir()] == ["album"]
    nowhere = Checked(None)
    nowhere.keep(files)
    assert not nowhere.know(files).any()
