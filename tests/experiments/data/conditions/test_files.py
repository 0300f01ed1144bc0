from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments.data.conditions.files import read


def test_a_file_holds_the_values_of_one_kind_or_of_several_by_name(tmp_path):
    rows = np.array([[1.5, -2.0], [3.0, 4.0]])
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "rows.npz", vector=rows, **{"class": [3, 1]})
    (tmp_path / "rows.csv").write_text("length,amplitude\n1.5,-2\n3,4\n")
    for name in ("rows.npy", "rows.csv"):
        found = read(str(tmp_path / name), {"vector": None})
        assert found.keys() == {"vector"}
        np.testing.assert_array_equal(found["vector"], rows)
    found = read(str(tmp_path / "rows.npz"), {"class": None, "vector": None})
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
        ("rows.npz", ("vector",), "has 'vectors', but the model's conditions are 'vector'"),
        ("rows.csv", ("vector",), "as many in each row"),
        ("rows.doc", ("vector",), "rows.doc': give an .npy"),
        ("broken.npy", ("vector",), "broken.npy"),
    ):
        with pytest.raises(ValueError, match=message):
            read(str(tmp_path / name), dict.fromkeys(kinds))


def test_image_files_are_grey_or_coloured_as_the_model_needs(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (2, 4, 6, 4)).astype(np.uint8)
    pixels[..., 3] = np.arange(6) < 4
    folder = tmp_path / "some images"
    folder.mkdir()
    for k, each in enumerate(pixels):
        Image.fromarray(each[..., :3]).save(folder / f"{k}.png")
    Image.fromarray(pixels[0]).save(tmp_path / "alpha.png")
    colours, grey = ({"image": SimpleNamespace(source=(4, 6, n))} for n in (3, 1))
    found = read(str(folder), colours)["image"]
    np.testing.assert_array_equal(found, pixels[..., :3])
    assert read(str(folder), grey)["image"].shape == (2, 4, 6, 1)
    known = read(str(tmp_path / "alpha.png"), colours)["image"][0]
    np.testing.assert_array_equal(known[:, :4], pixels[0, :, :4, :3])
    assert np.isnan(known[:, 4:]).all()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"12")
    for name, kinds, message in (
        ("alpha.png", {"vector": None}, "holds images, but the model's conditions are 'vector'"),
        ("alpha.png", {"image": SimpleNamespace(source=(8, 6, 3))}, "4 x 6 pixels, .* 8 x 6: crop"),
        ("alpha.png", {"image": SimpleNamespace(source=(8, 2))}, "which image files do not have"),
        ("empty", grey, "a folder without images"),
        ("bad.png", grey, "bad.png"),
    ):
        with pytest.raises(ValueError, match=message):
            read(str(tmp_path / name), kinds)
