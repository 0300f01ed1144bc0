import dataclasses
import io
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.data.dataset import DataSpec
from experiments.data.sources import huggingface


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"datasets: pip install -e '\.\[huggingface\]'"):
        huggingface.load(spec("some/name"))


@pytest.fixture
def hub():
    return pytest.importorskip("datasets")


class Hub:
    """The few parts of the package `datasets` that are used, for where it is not installed."""

    @dataclasses.dataclass
    class Image:
        decode: bool = True

    @dataclasses.dataclass
    class ClassLabel:
        names: list

    @dataclasses.dataclass
    class Value:
        dtype: str

    class Dataset:
        _fingerprint = "1"

        def __init__(self, features, columns):
            self.features, self.columns = features, columns

        def __len__(self):
            return len(next(iter(self.columns.values())))

        def __getitem__(self, key):
            if isinstance(key, str):
                return self.columns[key]
            return {name: column[key] for name, column in self.columns.items()}

        def select(self, rows):
            columns = {name: [c[i] for i in rows] for name, c in self.columns.items()}
            return Hub.Dataset(self.features, columns)

        def cast_column(self, name, feature):
            return Hub.Dataset(self.features | {name: feature}, self.columns)

        def select_columns(self, names):
            return Hub.Dataset(self.features, {name: self.columns[name] for name in names})


def stored(level: int, **options) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[level, 0], [0, 0]], np.uint8)).save(buffer, "png", **options)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def load_splits(monkeypatch):
    """load_splits(parts): the data set of these splits, {name: (features, columns)}."""

    def load(**parts):
        hub, found = Hub(), {name: Hub.Dataset(*part) for name, part in parts.items()}
        hub.load_dataset = lambda path: found
        monkeypatch.setattr(huggingface, "require", lambda *_: hub)
        return huggingface.load(spec("some/name"))

    return load


def columns(n=4, exif=None, **more):
    """The features and columns of n images."""
    options = {} if exif is None else {"exif": exif}
    features = {"image": Hub.Image()} | {name: feature for name, (feature, _) in more.items()}
    values = {"image": [stored(10 + i, **options) for i in range(n)]}
    return features, values | {name: column for name, (_, column) in more.items()}


@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_a_column_of_integers_named_label_has_the_labels(load_splits, dtype):
    more = {"label": (Hub.Value(dtype), [2, 0, 1, 1]), "age": (Hub.Value("int32"), [9] * 4)}
    dataset = load_splits(train=columns(**more), test=columns(**more))
    np.testing.assert_array_equal(dataset.train_labels, [2, 0, 1, 1])
    assert dataset.train_labels.dtype == np.int32
    assert dataset.notes[1:] == ("left out: columns age", "the labels are the column label")


def test_columns_of_labels_that_cannot_be_are_refused(load_splits):
    def part(values, **more):
        return columns(label=(Hub.Value("int64"), values), **more)

    with pytest.raises(ValueError, match=r"some/name: the labels in column label .*beyond 32"):
        load_splits(train=part([0, 1, 2**40, 1]), test=part([0] * 4))
    with pytest.raises(ValueError, match="several columns of integer labels: label, target; save"):
        load_splits(train=part([0] * 4, target=(Hub.Value("int64"), [0] * 4)))


@pytest.mark.parametrize("hidden", [None, -1])
def test_a_split_with_hidden_labels_has_none_and_says_so(load_splits, hidden):
    def part(values):
        return columns(label=(Hub.ClassLabel(["a", "b"]), values))

    dataset = load_splits(train=part([0, 1, 1, 0]), test=part([0, 1, hidden, 0]))
    assert dataset.test_labels is None
    np.testing.assert_array_equal(dataset.train_labels, [0, 1, 1, 0])
    assert dataset.notes[-1] == "no classes of the test data: some of their labels are hidden"


def test_folders_of_parts_that_were_taken_for_classes_are_none(load_splits):
    part = columns(label=(Hub.ClassLabel(["test", "train"]), [None] * 4))
    dataset = load_splits(train=part, test=part)
    assert (dataset.train_labels, dataset.classes) == (None, ())
    assert dataset.notes[-1] == "left out: columns label"


def test_splits_have_names_in_any_case_and_the_rest_is_left_out(load_splits):
    dataset = load_splits(Training=columns(3), VALID=columns(2), extra=columns(1))
    assert (len(dataset.train), len(dataset.test)) == (3, 2)
    assert dataset.notes == ("the test data are the split VALID", "left out: splits extra")
    names = ["cat", "dog"]
    both = columns(20, kind=(Hub.ClassLabel(names), [0, 1] * 10))
    dataset = load_splits(train=both)
    assert (len(dataset.test), dataset.test_share, dataset.classes) == (2, 0.1, ("cat", "dog"))


def test_images_of_a_column_are_turned_as_exif_says(load_splits):
    exif = Image.Exif()
    exif[0x0112] = 6
    part = columns(exif=exif)
    dataset = load_splits(train=part, test=part)
    dataset.train.check()
    np.testing.assert_array_equal(dataset.train[:][0, ..., 0], [[0, 10], [0, 0]])


def spec(path):
    return DataSpec("huggingface", (2, 2, 1), str(path))


def part(hub, start, labels, **more):
    images = [Image.new("L", (2, 2), start + i) for i in range(len(labels))]
    features = {"picture": hub.Image(), "kind": hub.ClassLabel(names=["a", "b"])}
    features |= {name: hub.Image() for name in more}
    table = {"picture": images, "kind": labels} | dict.fromkeys(more, images)
    return hub.Dataset.from_dict(table, features=hub.Features(features))


def levels(images):
    return images[:][:, 0, 0, 0]


def test_splits_and_columns_are_found(tmp_path, hub):
    parts = {"train": part(hub, 0, [0, 1, 1]), "test": part(hub, 10, [1, 0])}
    hub.DatasetDict(parts).save_to_disk(tmp_path)
    dataset = huggingface.load(spec(tmp_path))
    np.testing.assert_array_equal(levels(dataset.train), [0, 1, 2])
    np.testing.assert_array_equal(levels(dataset.test), [10, 11])
    np.testing.assert_array_equal(dataset.train_labels, [0, 1, 1])
    np.testing.assert_array_equal(dataset.test_labels, [1, 0])


def test_a_set_without_a_test_set_is_split(tmp_path, hub):
    part(hub, 0, [0, 1] * 10).save_to_disk(tmp_path)
    dataset = huggingface.load(spec(tmp_path))
    assert (len(dataset.train), len(dataset.test)) == (18, 2)
    np.testing.assert_array_equal(levels(dataset.train) % 2, dataset.train_labels)


def test_a_folder_of_files_is_loaded_by_name(tmp_path, hub):
    for i in range(10):
        (tmp_path / f"train/{'ab'[i % 2]}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), i).save(tmp_path / f"train/{'ab'[i % 2]}/{i}.png")
    dataset = huggingface.load(spec(tmp_path))
    np.testing.assert_array_equal(levels(dataset.train) % 2, dataset.train_labels)


def test_hidden_labels_of_minus_1_count_as_no_labels(tmp_path, hub):
    parts = {"train": part(hub, 0, [0, 1, 1]), "test": part(hub, 10, [-1, -1])}
    hub.DatasetDict(parts).save_to_disk(tmp_path)
    assert huggingface.load(spec(tmp_path)).test_labels is None


def test_data_without_one_column_of_images_and_a_training_split_are_refused(tmp_path, hub):
    part(hub, 0, [0, 1, 1], mask=True).save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match="several columns of the type Image: picture, mask"):
        huggingface.load(spec(tmp_path / "two"))
    part(hub, 0, [0] * 20).remove_columns("picture").save_to_disk(tmp_path / "none")
    with pytest.raises(ValueError, match="no column of images, it has kind"):
        huggingface.load(spec(tmp_path / "none"))
    hub.DatasetDict(test=part(hub, 0, [0])).save_to_disk(tmp_path / "test")
    with pytest.raises(ValueError, match="no split train, it has test"):
        huggingface.load(spec(tmp_path / "test"))
    with pytest.raises(ValueError, match=r"config\.data\.path is empty"):
        huggingface.load(spec(""))


def test_a_column_of_texts_has_the_captions(load_splits):
    more = {"Caption": (Hub.Value("string"), ["a", None, "b", "c"])}
    assert load_splits(train=columns(**more), test=columns(**more)).train_captions is None
    dataset = huggingface.load(dataclasses.replace(spec("some/name"), captions=True))
    assert list(dataset.train_captions) == list(dataset.test_captions) == ["a", "", "b", "c"]
    assert not any("Caption" in note for note in dataset.notes)
