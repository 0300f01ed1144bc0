import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments.data.dataset import DataSpec
from experiments.data.sources import files


def grey(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2), value).save(buffer, "png")
    return buffer.getvalue()


def spec(path):
    return DataSpec("folder", (2, 2, 1), str(path), test_fraction=0.25)


def load(folder, members: dict[str, bytes | dict], archive: bool = False):
    """Loads a data set of these members, in a folder or in a .zip."""
    contents = {
        name: value if isinstance(value, bytes) else json.dumps(value).encode()
        for name, value in members.items()
    }
    path = folder / ("album.zip" if archive else "album")
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            for name, value in contents.items():
                file.writestr(name, value)
    else:
        for name, value in contents.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(value)
    return files.load(spec(path))


def pairs(dataset) -> dict[int, int]:
    """The label of each image by its grey level."""
    return {
        int(image[0, 0, 0]): int(label)
        for images, labels in (
            (dataset.train, dataset.train_labels),
            (dataset.test, dataset.test_labels),
        )
        for image, label in zip(images[:], labels, strict=True)
    }


@pytest.mark.parametrize("archive", [False, True])
def test_folders_are_classes_in_alphabetical_order(tmp_path, archive):
    members = {"b/1.png": grey(1), "b/2.PNG": grey(2), "a/x/3.png": grey(3), "c/4.png": grey(4)}
    hidden = {"c/.x.png": b"", "__MACOSX/._4.png": b"", "notes.txt": b""}
    dataset = load(tmp_path, members | hidden, archive)
    assert pairs(dataset) == {1: 1, 2: 1, 3: 0, 4: 2}
    assert (len(dataset.train), len(dataset.test)) == (3, 1)


def test_a_single_outermost_folder_is_not_a_class(tmp_path):
    dataset = load(tmp_path, {f"all/{i}.png": grey(i) for i in range(4)})
    assert dataset.train_labels is None
    nested = {"all/a/0.png": grey(0), "all/b/1.png": grey(1), "all/b/2.png": grey(2)}
    (tmp_path / "nested").mkdir()
    assert pairs(load(tmp_path / "nested", nested)) == {0: 0, 1: 1, 2: 1}


@pytest.mark.parametrize("test", ["test", "val"])
def test_folders_train_and_test_are_the_splits(tmp_path, test):
    names = ("train/cat/1.png", "train/dog/2.png", f"{test}/dog/3.png", f"{test}/cat/4.png")
    dataset = load(tmp_path, {name: grey(i) for i, name in enumerate(names, 1)})
    assert pairs(dataset) == {1: 0, 2: 1, 3: 1, 4: 0}
    np.testing.assert_array_equal(dataset.test[:][:, 0, 0, 0], [4, 3])


@pytest.mark.parametrize("around", ["", "album/"])
def test_labels_of_the_edm_layout_are_read(tmp_path, around):
    members: dict = {f"{around}0000{i // 2}/{i}.png": grey(i) for i in range(4)}
    members[around + "dataset.json"] = {
        "labels": [[f"0000{i // 2}/{i}.png", 9 - i] for i in (2, 0, 1, 3)]
    }
    assert pairs(load(tmp_path, members, archive=True)) == {0: 9, 1: 8, 2: 7, 3: 6}


def test_with_a_label_file_without_labels_folders_are_not_classes(tmp_path):
    members = {f"0000{i // 2}/{i}.png": grey(i) for i in range(4)}
    assert load(tmp_path, members | {"dataset.json": {"labels": None}}).train_labels is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"labels": [["0.png", 1]]}, "no labels for the files 1.png, 2.png, 3.png and 1 more"),
        ({"labels": [[f"{i}.png", 1] for i in range(6)]}, "that do not exist 5.png"),
        ({"labels": [[f"{i}.png", i - 1] for i in range(5)]}, "not integers from 0 on, of 0.png"),
        ({"labels": [[f"{i}.png", i / 2] for i in range(5)]}, "not integers from 0 on, of 0.png"),
        ({"labels": [1, 2]}, "dataset.json must have the form"),
        ({"classes": []}, "dataset.json must have the form"),
        (b"{", "dataset.json must have the form"),
    ],
)
def test_labels_that_do_not_fit_the_files_are_refused(tmp_path, table, message):
    members = {f"{i}.png": grey(i) for i in range(5)} | {"dataset.json": table}
    with pytest.raises(ValueError, match=message):
        load(tmp_path, members)


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/x.png", "C:\\x.png", "..\\x.png"])
def test_a_zip_with_a_member_outside_of_it_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"refused: its member .* leads out of the archive"):
        load(tmp_path, {"0.png": grey(0), name: grey(1)}, archive=True)


def test_paths_without_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no image"):
        load(tmp_path, {"a.txt": b""})
    for path in ("", "nowhere", str(tmp_path / "album/a.txt")):
        with pytest.raises(ValueError, match=r"neither a folder nor a \.zip file"):
            files.load(spec(path))
    with pytest.raises(ValueError, match="several label files"):
        load(
            tmp_path, {f"{i}/{name}": grey(i) for i in range(3) for name in ("x.png", files.LABELS)}
        )
