import dataclasses
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


def test_folders_named_by_numbers_are_classes_in_the_order_of_these(tmp_path):
    dataset = load(tmp_path, {f"{i}/0.png": grey(i) for i in range(12)})
    assert pairs(dataset) == {i: i for i in range(12)}
    assert dataset.classes == tuple(map(str, range(12)))


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


def grid(*folders: str, n: int = 2) -> dict[str, bytes | dict]:
    """n images in each of the folders."""
    return {f"{folder}/{i}.png": grey(i) for folder in folders for i in range(n)}


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (("train", "test", "val"), ("left out: 4 images in val",)),
        (("Training", "TESTING"), ()),
        (("TRAIN", "Valid"), ()),
        (("train", "test", "eval"), ("left out: 4 images in eval",)),
        (("train", "dev", "masks"), ("left out: 4 images in masks",)),
    ],
)
def test_parts_are_known_in_any_case_and_the_rest_is_left_out(tmp_path, archive, names, left_out):
    folders = [f"{part}/{kind}" for part in names for kind in ("cat", "dog")]
    dataset = load(tmp_path, grid(*folders), archive)
    assert {key.split("/")[0] for key in dataset.train.keys} == {names[0]}
    assert {key.split("/")[0] for key in dataset.test.keys} == {names[1]}
    np.testing.assert_array_equal(dataset.train_labels, [0, 0, 1, 1])
    assert (dataset.classes, dataset.test_share) == (("cat", "dog"), None)
    assert dataset.notes[1:] == left_out


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train2017/a", "val2017/a"), "train2017 may be a part of the data or a class"),
        (("trainA", "trainB", "testA"), "testA may be a part"),
        (("traindata/a", "testdata/a"), "testdata may be a part"),
        (("my-test", "my-train"), "my-test may be a part"),
        (("bus", "car", "train"), r"train may be .* otherwise \(such as trains/\)"),
        (("train", "test", "test_small"), "test_small may be a part"),
        (("train", "Training", "test"), "Training and train, two names of the train data"),
        (("test/a", "val/a"), "has test, val, but no train data"),
        (("test/a", "test/b"), "has test, but no train data: add them, or set config.data.path"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "parts test, train within cat"),
    ],
)
def test_folders_that_look_like_parts_and_do_not_fit_are_refused(tmp_path, folders, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, grid(*folders))


@pytest.mark.parametrize("names", [("bus", "trains"), ("terrain", "valley"), ("contest", "latex")])
def test_classes_may_have_names_with_a_part_s_letters(tmp_path, names):
    assert load(tmp_path, grid(*names)).classes == names


def test_images_beside_the_parts_or_the_classes_are_said(tmp_path):
    (tmp_path / "parts").mkdir()
    dataset = load(tmp_path / "parts", grid("train", "test") | {"preview.png": grey(9)})
    assert dataset.notes[-1] == "left out: 1 images outside of these folders"
    dataset = load(tmp_path, grid("a", "b") | {"x.png": grey(9), "notes.txt": b"", "b.csv": b""})
    assert dataset.train_labels is None
    assert dataset.notes[0] == "no classes: 1 images are outside of the folders a, b"
    assert dataset.notes[1].startswith("left out, as they are no images by their names: files 1 .")


def test_classes_of_one_split_alone_keep_the_others_numbers(tmp_path):
    for name in ("flat", "more"):
        (tmp_path / name).mkdir()
    train = grid("train/a", "train/c")
    flat = load(tmp_path / "flat", train | {f"test/{i}.png": grey(i) for i in range(2)})
    assert flat.test_labels is None
    assert "the test images have no classes" in flat.notes[-1]
    more = load(tmp_path / "more", train | grid("test/a", "test/b"))
    np.testing.assert_array_equal(more.train_labels, [0, 0, 2, 2])
    np.testing.assert_array_equal(more.test_labels, [0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"no training data of the classes 1 \(b\)"):
        more.check_trained(3)


def test_links_are_followed_and_cycles_are_not(tmp_path):
    for name, value in grid("real/a", "real/b").items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(value))
    (tmp_path / "real/a/above").symlink_to(tmp_path / "real")
    (tmp_path / "real/a/nowhere.png").symlink_to(tmp_path / "none.png")
    (tmp_path / "real/a/itself.png").symlink_to(tmp_path / "real/a/itself.png")
    (tmp_path / "links").mkdir()
    for name in "ab":
        (tmp_path / "links" / name).symlink_to(tmp_path / "real" / name)
    dataset = files.load(spec(tmp_path / "links"))
    assert sorted([*dataset.train.keys, *dataset.test.keys]) == [
        f"{folder}/{i}.png" for folder in "ab" for i in range(2)
    ]
    assert dataset.notes[-1] == ("left out: links that lead nowhere, a/itself.png, a/nowhere.png")
    assert len(files.load(spec(tmp_path / "real")).train) == 3


@pytest.mark.parametrize("around", ["", "album/"])
def test_labels_of_the_edm_layout_are_read(tmp_path, around):
    members: dict = {f"{around}0000{i // 2}/{i}.png": grey(i) for i in range(4)}
    members[around + "dataset.json"] = {
        "labels": [[f"0000{i // 2}/{i}.png", 9 - i] for i in (2, 0, 1, 3)]
    }
    assert pairs(load(tmp_path, members, archive=True)) == {0: 9, 1: 8, 2: 7, 3: 6}


def test_names_in_the_label_file_may_begin_with_a_dot_or_have_backslashes(tmp_path):
    members: dict = {f"a/{i}.png": grey(i) for i in range(4)}
    members["dataset.json"] = {"labels": [[f"./a/{i}.png", i] for i in range(2)]}
    members["dataset.json"]["labels"] += [[f"a\\{i}.png", i] for i in (2, 3)]
    assert pairs(load(tmp_path, members)) == {0: 0, 1: 1, 2: 2, 3: 3}


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
        ({"labels": [*([f"{i}.png", 1] for i in range(5)), ["./3.png", 0]]}, "several .* 3.png"),
        ({"labels": [[f"{i}.png", i * 10**9] for i in range(5)]}, "up to 4000000000, beyond 32"),
        ({"labels": [[f"{i}.png", 10**30] for i in range(5)]}, "beyond 32 bits"),
        ({"labels": [[f"{i}.png", None] for i in range(5)]}, "not integers from 0 on, of 0.png"),
        ({"labels": [[i, 1] for i in range(5)]}, "that do not exist 0, 1, 2 and 2 more"),
        ({"labels": [1, 2]}, "dataset.json must have the form"),
        ({"classes": []}, "dataset.json must have the form"),
        (b"{", "dataset.json must have the form"),
        (b'{"labels": [["a.png", 1],]}', r"3\], \.\.\.\]} \(.*line 1 column"),
        (b"[" * 100_000, "dataset.json must have the form"),
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


def damaged(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda zip: damaged(zip, zip.find(b"PK\1\2"), b"\0"), "Bad magic number for central"),
        (lambda zip: damaged(zip, zip.find(b"PK\1\2") + 8, b"\1"), "0.png is encrypted; unpack"),
        (lambda zip: damaged(zip, zip.find(b"PK\1\2") + 10, b"\x09"), "method unknown here"),
        (lambda zip: damaged(zip, zip.find(b'"labels"') + 1, b"x"), "json cannot be read: Bad CRC"),
        (lambda zip: zip[:-9], r"neither a folder nor a \.zip file"),
    ],
)
def test_damaged_archives_are_refused_in_one_line(tmp_path, change, message):
    members = {f"{i}.png": grey(i) for i in range(4)}
    load(tmp_path, members | {"dataset.json": {"labels": None}}, archive=True)
    path = tmp_path / "album.zip"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        files.load(spec(path))
    assert "\n" not in str(error.value)


def test_a_member_twice_in_a_zip_is_refused(tmp_path):
    load(tmp_path, {f"{i}.png": grey(i) for i in range(4)}, archive=True)
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "album.zip", "a") as archive,
    ):
        archive.writestr("2.png", grey(9))
    with pytest.raises(ValueError, match="several files of one name"):
        files.load(spec(tmp_path / "album.zip"))


def test_a_changed_file_is_looked_at_again(tmp_path):
    for archive in (False, True):
        images = load(tmp_path, {f"{i}.png": grey(i) for i in range(4)}, archive).train
        assert images.check(tmp_path / "cache") == {}
        path = tmp_path / ("album.zip" if archive else "album/1.png")
        kept = path.read_bytes()
        path.write_bytes(damaged(kept, kept.find(b"IDAT") + 6, b"???"))
        images = files.load(spec(tmp_path / ("album.zip" if archive else "album"))).train
        with pytest.raises(ValueError, match=r"\d.png cannot be used"):
            images.check(tmp_path / "cache")
        path.write_bytes(kept)


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


def test_texts_beside_the_images_are_captions(tmp_path):
    members = {f"{k}.png": grey(k) for k in range(8)}
    texts = {f"{k}.txt": f"grey\n level {k}".encode() for k in range(8) if k != 3}
    load(tmp_path, members | texts | {"notes.txt": b"x"})
    dataset = files.load(dataclasses.replace(spec(tmp_path / "album"), captions=True))
    for part in ("train", "test"):
        levels = getattr(dataset, part)[:][:, 0, 0, 0]
        expected = ["" if k == 3 else f"grey level {k}" for k in levels]
        assert list(getattr(dataset, f"{part}_captions")) == expected
    assert any("1 .txt" in note for note in dataset.notes)
    assert files.load(spec(tmp_path / "album")).train_captions is None
