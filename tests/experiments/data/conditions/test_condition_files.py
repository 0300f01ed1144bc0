import numpy as np
import pytest

from experiments.data.conditions.files import read


def test_a_file_holds_the_values_of_one_kind_or_of_several_by_name(tmp_path):
    rows = np.array([[1.5, -2.0], [3.0, 4.0]])
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "rows.npz", vector=rows, **{"class": [3, 1]})
    (tmp_path / "rows.csv").write_text("length,amplitude\n1.5,-2\n3,4\n")
    for name in ("rows.npy", "rows.csv"):
        found = read(str(tmp_path / name), ["vector"])
        assert found.keys() == {"vector"}
        np.testing.assert_array_equal(found["vector"], rows)
    found = read(str(tmp_path / "rows.npz"), ["class", "vector"])
    np.testing.assert_array_equal(found["vector"], rows)
    np.testing.assert_array_equal(found["class"], [3, 1])


def test_files_that_do_not_fit_are_refused(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((2, 2)))
    np.savez(tmp_path / "rows.npz", vectors=np.zeros((2, 2)))
    (tmp_path / "rows.csv").write_text("a,b\n1\n")
    (tmp_path / "rows.doc").write_text("1")
    (tmp_path / "broken.npy").write_bytes(b"1234")
    for name, kinds, message in (
        ("rows.npy", (), "but the model has no conditions: leave it out"),
        ("none.npy", ("vector",), "which does not exist: give an .npy"),
        ("rows.npy", ("class", "vector"), "conditions 'class', 'vector': give an .npz file"),
        ("rows.npz", ("vector",), "an array 'vectors', but the model's conditions are 'vector'"),
        ("rows.csv", ("vector",), "as many in each row"),
        ("rows.doc", ("vector",), "rows.doc': give an .npy"),
        ("broken.npy", ("vector",), "broken.npy"),
    ):
        with pytest.raises(ValueError, match=message):
            read(str(tmp_path / name), kinds)
