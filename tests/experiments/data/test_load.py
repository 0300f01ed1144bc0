import dataclasses
import json
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments.data.dataset import Dataset, DataSpec
from experiments.data.load import describe, load
from experiments.data.sources import SOURCES, Source
from experiments.runs import devices
from experiments.training.options import Training
from experiments.training.step import make_batches

DIGITS, MOONS = DataSpec("digits", (8, 8, 1)), DataSpec("moons", (2,))
IMAGES = np.zeros((100, 8, 8, 1), np.uint8)


@pytest.fixture
def returns(monkeypatch):
    """returns(name, dataset): the source of that name returns this data set."""

    def replace(name, dataset):
        monkeypatch.setitem(SOURCES, name, Source(lambda spec: dataset, dataset.levels))

    return replace


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (np.zeros((140, 32, 32, 3), np.float32), "are float32, they must be uint8; .* from 0 to 0"),
        (np.full((140, 32, 32, 3), 65535, np.uint16), r"are uint16, .* 65535: .*clip\(\(images - "),
        (np.full((140, 32, 32, 3), "a"), "are <U1, they must be uint8$"),
        (np.zeros((140, 28, 28, 1), np.uint8), r"shape \(28, 28, 1\).*set config.data.image_size"),
        (np.zeros((140, 32, 32), np.uint8), "have 3 axes, they must have 4"),
        (np.zeros((1, 32, 32, 3), np.uint8), "there are 1 samples, at least 2 are needed"),
    ],
)
def test_data_of_another_type_or_shape_are_refused(tmp_path, train, message):
    path = str(tmp_path / "c.npz")
    np.savez(path, train=train, test=train)
    with pytest.raises(ValueError, match=message):
        load(DataSpec("cifar10", (32, 32, 3), path))


def test_fewer_training_samples_than_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"100 training samples: config\.training\.batch_size"):
        next(make_batches((IMAGES, {}), Training(1, 128), devices.make_mesh(), 0))


def test_values_outside_their_declared_range_are_refused(returns):
    returns("digits", Dataset(IMAGES + np.uint8(17), IMAGES, 17))
    with pytest.raises(ValueError, match="grey level 17 is outside 0"):
        load(DIGITS)
    bad = np.full((1000, 2), np.nan, np.float32)
    returns("moons", Dataset(bad, bad, None))
    with pytest.raises(ValueError, match="2000 numbers are not finite"):
        load(MOONS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(99), r"train data of 'digits': labels of shape \(99,\) for 100 samples"),
        (np.arange(100) - 1, "the label -1 is negative"),
        (np.arange(100) + 2**31, "train data of 'digits': the labels go up to 2147483747, beyond"),
        (np.full(100, 2**64 - 1, np.uint64), "up to 18446744073709551615, beyond 32 bits"),
        (np.arange(100.0), "the labels are float64, they must be integers"),
        ([None] * 100, "the labels are object, they must be integers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(returns, labels, message):
    returns("digits", Dataset(IMAGES, IMAGES, 17, labels, np.arange(100)))
    with pytest.raises(ValueError, match=message):
        load(DIGITS)


@pytest.mark.parametrize(
    ("confidences", "message"),
    [
        (np.ones(99), r"train data of 'digits': confidences of shape \(99,\) for 100 samples"),
        (np.linspace(-0.1, 1, 100), r"confidences from -0.1 to 1.0: they must be in \[0, 1\]"),
        (np.full(100, np.nan), "confidences from nan to nan"),
    ],
)
def test_confidences_that_do_not_fit_are_refused(returns, confidences, message):
    returns("digits", Dataset(IMAGES, IMAGES, 17, train_confidence=confidences))
    with pytest.raises(ValueError, match=message):
        load(DIGITS)


def test_an_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        load(DataSpec("digit", (8, 8, 1)))


@pytest.mark.parametrize("name", ["digits", "moons", "emoji"])
def test_a_path_for_data_that_reads_no_files_is_refused(name):
    with pytest.raises(
        ValueError, match=r"path is 'a\.npz', .* set config\.data\.dataset to .*npz"
    ):
        load(dataclasses.replace(DIGITS, name=name, path="a.npz"))


@pytest.mark.parametrize("options", [{"first_frame": True}, {"max_unreadable": 0.1}])
def test_options_of_image_files_are_refused_for_other_data(options):
    with pytest.raises(ValueError, match=r"config\.data\.\w+ is .*'digits' are no image files"):
        load(dataclasses.replace(DIGITS, **options))


@pytest.mark.parametrize("count", [1, 3, 5, 6, 12, 14])
def test_data_that_are_too_few_to_split_name_the_fraction(tmp_path, count):
    np.savez(tmp_path / "a.npz", images=IMAGES[:count])
    spec = DataSpec("npz", (8, 8, 1), str(tmp_path / "a.npz"))
    with pytest.raises(
        ValueError, match=r"there are \d samples|config\.data\.test_fraction"
    ) as error:
        load(spec)
    if count > 3:
        advice = re.search(r"set config\.data\.test_fraction to at least (\S+)$", str(error.value))
        dataset = load(dataclasses.replace(spec, test_fraction=float(advice[1])))
        assert len(dataset.test) == 2


def test_a_test_set_that_was_not_split_off_is_not_the_fraction_s_fault(tmp_path):
    np.savez(tmp_path / "a.npz", train=IMAGES, test=IMAGES[:1])
    with pytest.raises(ValueError, match=r"there are 1 samples, at least 2 are needed$"):
        load(DataSpec("npz", (8, 8, 1), str(tmp_path / "a.npz")))
    labels = np.arange(100)
    arrays = {"train_labels": labels, "test_labels": labels[:0]}
    np.savez(tmp_path / "a.npz", train=IMAGES, test=IMAGES[:0], **arrays)
    with pytest.raises(ValueError, match=r"there are 0 samples, at least 2 are needed$"):
        load(DataSpec("npz", (8, 8, 1), str(tmp_path / "a.npz")))


def test_what_was_found_is_shown(returns, caplog):
    caplog.set_level("INFO", "experiments")
    labels, test_labels = np.arange(100) % 2, np.arange(50) % 4
    returns(
        "digits",
        Dataset(
            IMAGES, IMAGES[:50], 17, labels, test_labels, classes=("a", "b"), notes=("a note",)
        ),
    )
    load(DIGITS)
    assert caplog.messages == [
        "data 'digits': 100 images to train on and 50 to test on",
        "  4 classes (training + test): 0 (a) 50 + 13, 1 (b) 50 + 13, 2 0 + 12, 3 0 + 12",
        "  classes without training data: 2, 3",
        "  a note",
    ]
    caplog.clear()
    load(dataclasses.replace(MOONS, test_fraction=0.2))
    assert caplog.messages == [
        "data 'moons': 20,000 points to train on and 2,000 to test on: config.data.test_fraction "
        "is not used, as the data have a test set"
    ]


@pytest.fixture
def album(tmp_path):
    """A folder of 20 images; number 3 is damaged."""
    for i in range(20):
        for folder in "ab":
            (tmp_path / "album" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(IMAGES[i, ..., 0] + np.uint8(i)).save(
                tmp_path / f"album/{folder}/{i}.png"
            )
    (tmp_path / "album/a/3.png").write_bytes(b"")
    return DataSpec("folder", (8, 8, 1), str(tmp_path / "album"), str(tmp_path / "cache"), 0.25)


def test_a_damaged_image_is_found_before_the_start(album):
    with pytest.raises(ValueError, match=r"a/3\.png cannot be used: .*max_unreadable=0\.034"):
        load(album)


def test_a_share_of_unreadable_images_can_be_left_out(album, caplog):
    caplog.set_level("INFO", "experiments")
    dataset = load(dataclasses.replace(album, max_unreadable=0.034))
    assert (len(dataset.train), len(dataset.test)) == (29, 10)
    assert len(dataset.train_labels) == 29
    for split in ("train", "test"):
        names, labels = getattr(dataset, split).keys, getattr(dataset, f"{split}_labels")
        assert [name[0] for name in names] == ["ab"[label] for label in labels]
        getattr(dataset, split)[:]
    assert (
        "left out: 1 unreadable train images, a/3.png (it is damaged, or no image)" in caplog.text
    )
    for share in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match=r"max_unreadable is .*: it must be a share"):
            load(dataclasses.replace(album, max_unreadable=share))


@pytest.mark.parametrize("kind", ["zip", "npz", "folder"])
def test_whatever_is_damaged_is_refused_in_one_line_or_harmless(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("experiments.data.lazy_images.PAUSES", (0,))
    random = np.random.RandomState(0)
    pixels = random.randint(256, size=(12, 8, 8, 1)).astype(np.uint8)
    labels = [[f"{i}.png", i % 2] for i in range(12)]
    for i, image in enumerate(pixels):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    names = sorted(path.name for path in tmp_path.iterdir())
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(tmp_path / name, name)
    np.savez_compressed(tmp_path / "whole.npz", images=pixels, labels=np.arange(12) % 2)
    source, refused = "npz" if kind == "npz" else "folder", []
    for k in range(60):
        path = tmp_path / (f"{k}.{kind}" if kind != "folder" else f"{k}")
        if kind == "folder":
            path.mkdir()
            for name in names:
                (path / name).write_bytes((tmp_path / name).read_bytes())
        else:
            path.write_bytes((tmp_path / f"whole.{kind}").read_bytes())
        damaged = path / random.choice(names) if kind == "folder" else path
        content = bytearray(damaged.read_bytes())
        for place in random.randint(len(content), size=random.choice([1, 3, 30])):
            content[place] = random.randint(256)
        damaged.write_bytes(content[: random.choice([len(content), random.randint(len(content))])])
        try:
            load(DataSpec(source, (8, 8, 1), str(path), str(tmp_path / "cache"), 0.25))
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 30
    assert not any("\n" in message for message in refused)


def test_pages_are_taken_if_the_config_says_so(tmp_path):
    pages = [Image.fromarray(IMAGES[0, ..., 0] + np.uint8(level)) for level in range(3)]
    for i in range(8):
        pages[0].save(tmp_path / f"{i}.tif", save_all=True, append_images=pages[1:])
    spec = DataSpec("folder", (8, 8, 1), str(tmp_path), str(tmp_path / "cache"), 0.25)
    with pytest.raises(
        ValueError, match=r"has 3 pages or frames: set config\.data\.first_frame=True"
    ):
        load(spec)
    assert load(dataclasses.replace(spec, first_frame=True)).train[:].max() == 0


@pytest.mark.parametrize(
    ("labels", "n_classes", "expected", "classes"),
    [
        (np.arange(20) % 3 + 1, 3, {0, 1, 2}, ("1", "2", "3")),
        (np.arange(20) % 2 * 2 - 1, 2, {0, 1}, ("-1", "1")),
        (np.arange(20) % 2 * 1000, 10, {0, 1}, ("0", "1000")),
        (np.array(["狗", "cat"] * 10), 2, {0, 1}, ("cat", "狗")),
        (np.arange(20) % 2 == 0, 2, {0, 1}, ("False", "True")),
        (np.arange(20) % 3 * 2, 10, {0, 2, 4}, ()),
        (np.arange(20) % 3 + 1, 2, {1, 2, 3}, ()),
    ],
    ids=["from 1", "signs", "far", "texts", "truth", "gaps that fit", "too many"],
)
def test_labels_that_do_not_count_from_0_are_numbered_and_recorded(
    tmp_path, labels, n_classes, expected, classes
):
    images = np.zeros((20, 4, 4, 1), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    spec = DataSpec("npz", (4, 4, 1), str(tmp_path / "x.npz"), n_classes=n_classes)
    dataset = load(spec)
    both = np.concatenate([dataset.train_labels, dataset.test_labels])
    assert {*both.tolist()} == expected
    assert dataset.classes == classes
    found = [note for note in describe(spec, dataset) if "classes of the labels: 0 = " in note]
    assert len(found) == bool(classes)


def test_shapes_that_differ_name_the_part(tmp_path):
    arrays = {"train": np.zeros((20, 4, 4, 1), np.uint8), "test": np.zeros((9, 4, 5, 1), np.uint8)}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=r"test data of 'npz': .* have the shape \(4, 5, 1\), but"):
        load(DataSpec("npz", (4, 4, 1), str(tmp_path / "x.npz")))
