import csv
import json
import multiprocessing
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments.data import lazy_arrays
from experiments.data.dataset import DataSpec
from experiments.data.load import load
from experiments.data.prepare import make as making
from experiments.data.prepare import work
from experiments.data.prepare.listing import list_images
from experiments.data.prepare.make import Rows, check_output, make, split_of
from experiments.data.prepare.picture import Transform


def pictures(folder, n=40, sizes=((9, 12), (14, 10)), classes=("犬", "кошка")):
    """Random images of several sizes in a folder for each class."""
    random = np.random.RandomState(0)
    for k in range(n):
        path = folder / classes[k % len(classes)] / f"{k:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.randint(0, 256, (*sizes[k % len(sizes)], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def made_of(folder, output, size=(8,), fraction=0.3, processes=None, **options):
    listing = list_images(folder, "", "", "")
    return make(listing, output, Transform(size, **options), fraction, processes)


def loaded(output, shape=(8, 8, 3), captions=False):
    return load(DataSpec("prepared", shape, str(output), captions=captions))


def rows_of(output):
    with (output / "files.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_become_an_array_that_numpy_maps(tmp_path):
    values = np.random.RandomState(0).randint(0, 256, (1234, 3, 2, 1)).astype(np.uint8)
    with Rows(tmp_path / "x.npy", (3, 2, 1)) as rows:
        for row in values:
            rows.add(row)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", mmap_mode="r"), values)


def test_images_are_as_prepared_with_their_classes_by_name(tmp_path):
    folder, output = pictures(tmp_path / "a b"), tmp_path / "out"
    made = made_of(folder, output)
    data = loaded(output)
    assert data.classes == ("кошка", "犬") == tuple(made.classes)
    assert len(data.train) + len(data.test) == 40
    for row in rows_of(output):
        values, labels = (getattr(data, f"{row['split']}{end}") for end in ("", "_labels"))
        k = int(row["row"])
        expected = Transform((8,))((folder / row["file"]).read_bytes()).pixels
        np.testing.assert_array_equal(values[k], expected)
        assert data.classes[labels[k]] == row["class"] == row["file"].split("/")[0]
    assert not output.with_name("out.part").exists()


@pytest.mark.parametrize("kind", ["zip", pytest.param("folder", marks=pytest.mark.slow)])
def test_several_processes_make_the_same(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(work, "AT_ONCE", 3)
    folder = pictures(tmp_path / "in", 20)
    if kind == "zip":
        folder = shutil.make_archive(str(tmp_path / "zipped"), "zip", folder)
    folder = tmp_path / folder
    for name, processes in (("one", 1), ("two", 2)):
        made_of(folder, tmp_path / name, processes=processes)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    assert not multiprocessing.active_children()


def test_a_file_stays_in_its_split_when_others_are_added_and_at_other_sizes(tmp_path):
    folder = pictures(tmp_path / "in")
    made_of(folder, tmp_path / "small")
    pictures(folder, 80, ((11, 9), (14, 10)), ("犬", "кошка"))
    for k in range(40):
        (folder / ("кошка" if k % 2 else "犬") / f"{k:03}.png").unlink()
    pictures(folder, 40)
    shutil.copytree(folder / "犬", folder / "new", ignore=lambda _, names: names[3:])
    made_of(folder, tmp_path / "large", (12,))
    before, after = (
        {row["file"]: row["split"] for row in rows_of(tmp_path / name)}
        for name in ("small", "large")
    )
    assert {after[name] for name in before} == {"train", "test"}
    assert before.items() <= after.items()
    assert len(after) > len(before)


def test_the_share_of_the_split_is_the_fraction():
    digests = [np.random.RandomState(k).bytes(16) for k in range(2000)]
    share = np.mean([split_of(digest, 0.25) == "test" for digest in digests])
    assert share == pytest.approx(0.25, abs=0.03)


def test_copies_broken_and_vanished_files_are_counted_and_listed(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "in")
    with Image.open(folder / "犬" / "000.png") as image:
        image.save(folder / "犬" / "z.bmp")
    (folder / "犬" / "bad.png").write_bytes(b"no image")
    intact = (folder / "犬" / "002.png").read_bytes()
    (folder / "犬" / "cut.png").write_bytes(intact[: len(intact) // 2])
    Image.fromarray(np.ones((9, 9), np.float32)).save(folder / "犬" / "float.tiff")
    listing = list_images(folder, "", "", "")
    (folder / "кошка" / "001.png").unlink()
    left_out = make(listing, tmp_path / "out", Transform((8,)), 0.3).left_out
    assert left_out["the same pixels as another image"] == ["犬/z.bmp (犬/000.png)"]
    assert left_out["damaged, or no image"] == ["犬/bad.png"]
    assert left_out["vanished while this ran"] == ["кошка/001.png"]
    (cut,) = left_out["damaged, or not to be read"]
    assert cut.startswith("犬/cut.png (image file is truncated")
    assert ["犬/float.tiff"] in left_out.values()
    assert len(loaded(tmp_path / "out").train) + len(loaded(tmp_path / "out").test) == 39


def test_images_of_too_many_pixels_are_left_out(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "in", sizes=((9, 12),))
    Image.new("RGB", (30, 30)).save(folder / "犬" / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert made_of(folder, tmp_path / "out").left_out["more than 400 pixels"] == ["犬/huge.png"]


def test_captions_stay_with_their_images_and_missing_ones_are_counted(tmp_path):
    folder = pictures(tmp_path / "in", classes=("one",))
    for k in range(0, 40, 4):
        (folder / "one" / f"{k:03}.txt").write_text(f"картина\n{k}", encoding="utf-8")
    made = made_of(folder, tmp_path / "out")
    assert made.no_caption == 30
    data = loaded(tmp_path / "out", captions=True)
    for row in rows_of(tmp_path / "out"):
        k = int(row["file"][4:7])
        caption = getattr(data, f"{row['split']}_captions")[int(row["row"])]
        assert caption == ("" if k % 4 else f"картина {k}")
    assert data.train_labels is None
    assert loaded(tmp_path / "out").train_captions is None


def test_labels_that_are_not_from_0_on_are_numbered_and_recorded(tmp_path):
    folder = pictures(tmp_path / "in", classes=("all",))
    rows = [f"all/{k:03}.png,{[100, 7, 20][k % 3]}" for k in range(40)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    made = made_of(folder, tmp_path / "out")
    data = loaded(tmp_path / "out")
    assert data.classes == ("7", "20", "100") == tuple(made.classes)
    assert set(data.train_labels) == {0, 1, 2}


def test_many_images_stay_on_the_disk(tmp_path, monkeypatch):
    made_of(pictures(tmp_path / "in"), tmp_path / "out")
    small = loaded(tmp_path / "out")
    monkeypatch.setattr(lazy_arrays, "IN_MEMORY", 100)
    large = loaded(tmp_path / "out")
    assert isinstance(small.train, np.ndarray)
    assert isinstance(large.train, lazy_arrays.LazyArray)
    rows = np.array([5, 0, 5, 3])
    np.testing.assert_array_equal(large.train[rows], small.train[rows])


def test_parts_stay_as_they_are(tmp_path):
    pictures(tmp_path / "in" / "train", 10)
    pictures(tmp_path / "in" / "test", 16, ((9, 9),))
    made_of(tmp_path / "in", tmp_path / "out")
    assert {row["split"] == row["file"].split("/")[0] for row in rows_of(tmp_path / "out")} == {
        True
    }


def test_a_stopped_try_is_begun_anew(tmp_path, monkeypatch):
    folder, output = pictures(tmp_path / "in"), tmp_path / "out"
    add, count = making._Writer.add, []

    def stop(*about):
        if len(count) == 10:
            raise KeyboardInterrupt
        count.append(add(*about))

    monkeypatch.setattr(making._Writer, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        made_of(folder, output)
    assert not output.exists()
    assert output.with_name("out.part").exists()
    monkeypatch.undo()
    made_of(folder, output)
    made_of(folder, tmp_path / "again")
    assert not output.with_name("out.part").exists()
    for file in output.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_images_of_several_sizes_need_a_size(tmp_path):
    folder = pictures(tmp_path / "in")
    with pytest.raises(ValueError, match=r"has .* pixels, and .* has .*: set config.prepare.size"):
        made_of(folder, tmp_path / "out", ())
    same = pictures(tmp_path / "same", sizes=((9, 12),))
    made_of(same, tmp_path / "out", ())
    assert loaded(tmp_path / "out", (9, 12, 3)).train.shape[1:] == (9, 12, 3)


def test_too_few_images_are_refused_with_what_was_left_out(tmp_path):
    folder = pictures(tmp_path / "in", 1)
    (folder / "犬" / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"at least 2 of each.*1 damaged, or no image"):
        made_of(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_or_lies_among_the_images_is_refused(tmp_path):
    folder = pictures(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"exists already: choose another.*no prepared data set"):
        check_output(folder, tmp_path / "out")
    (tmp_path / "out" / "data.json").touch()
    with pytest.raises(ValueError, match="a prepared data set that can be used as it is"):
        check_output(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="in the folder of the images"):
        check_output(folder, folder / "x" / "out")
    check_output(folder, tmp_path / "new")


def test_a_disk_without_room_is_noticed_at_once(tmp_path, monkeypatch):
    class Usage:
        free = 40 * 8 * 8 * 3 - 1

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(ValueError, match=r"40 images of 192 bytes need .* GiB left: make room"):
        made_of(pictures(tmp_path / "in"), tmp_path / "out")


def test_a_killed_process_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(work.ProcessPoolExecutor, "submit", fail)
    with pytest.raises(ValueError, match="ended by the system, perhaps as memory ran out"):
        made_of(pictures(tmp_path / "in", 4), tmp_path / "out", processes=2)


def fail(*_):
    raise work.BrokenProcessPool


@pytest.mark.parametrize("damage", ["short", "version", "json", "missing"])
def test_a_damaged_data_set_is_refused(tmp_path, damage):
    output = tmp_path / "out"
    made_of(pictures(tmp_path / "in"), output)
    about = json.loads((output / "data.json").read_text())
    if damage == "short":
        file = output / "train.npy"
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "version":
        (output / "data.json").write_text(json.dumps(about | {"version": 2}))
    elif damage == "json":
        (output / "data.json").write_text("{")
    else:
        (output / "test_labels.npy").unlink()
    with pytest.raises(ValueError, match=r"cannot be read.*the folder that --mode=prepare made"):
        loaded(output)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be the folder that --mode=prepare made"):
        loaded(tmp_path)
    with zipfile.ZipFile(tmp_path / "x.zip", "w"):
        pass
    with pytest.raises(ValueError, match="must be the folder"):
        loaded(tmp_path / "x.zip")
