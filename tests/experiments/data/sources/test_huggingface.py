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
