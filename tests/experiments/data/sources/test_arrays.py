import json
import sys
import types

import numpy as np
import pytest

from experiments.data import lazy_arrays
from experiments.data.dataset import DataSpec
from experiments.data.lazy_arrays import LazyArray
from experiments.data.load import load
from experiments.data.scaling import Scaling, claim

FIELDS = np.random.RandomState(0).randn(20, 4, 6, 1)


def spec(path, shape=(4, 6, 1), dtype="float", **more):
    return DataSpec("arrays", shape, str(path), dtype=dtype, **more)


@pytest.fixture(params=["memory", "lazy"], autouse=True)
def how(request, monkeypatch):
    if request.param == "lazy":
        monkeypatch.setattr(lazy_arrays, "IN_MEMORY", 0)
    return request.param


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f8"])
def test_one_array_is_split(tmp_path, kind, how):
    path = tmp_path / "fields of 数 é.npy"
    np.save(path, FIELDS.astype(kind))
    dataset = load(spec(path, test_fraction=0.2))
    assert isinstance(dataset.train, LazyArray) == (how == "lazy")
    assert (len(dataset.train), len(dataset.test), dataset.test_share) == (16, 4, 0.2)
    assert dataset.train.dtype == np.float32
    both = np.concatenate([dataset.train[:], dataset.test[:]])
    order = np.argsort(both[:, 0, 0, 0])
    expected = FIELDS.astype(kind).astype(np.float32)
    np.testing.assert_array_equal(both[order], expected[np.argsort(expected[:, 0, 0, 0])])
    rows = np.array([3, 0, 3, 15])
    np.testing.assert_array_equal(dataset.train[rows], dataset.train[:][rows])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(24,), (8, 3), (4, 6, 1), (2, 2, 3, 2)], ids=str)
def test_every_shape_and_kind_of_grey_levels(tmp_path, dtype, shape):
    values = np.arange(480).reshape(20, *shape).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    dataset = load(spec(tmp_path / "x.npy", shape, dtype))
    assert dataset.levels == {"uint8": 256, "uint16": 65_536}[dtype]
    assert dataset.train.shape == (18, *shape)
    assert dataset.train[:2].dtype == dtype


@pytest.mark.parametrize("form", ["npz", "folder", "hdf5", "zarr"])
def test_several_arrays_have_names(tmp_path, form, monkeypatch):
    labels = np.arange(16) % 3
    arrays = {"train": FIELDS[:16], "test": FIELDS[16:]}
    arrays |= {"train_labels": labels, "test_labels": labels[:4]}
    path = tmp_path / "data"
    if form == "npz":
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
    elif form == "folder":
        path.mkdir()
        for name, values in arrays.items():
            np.save(path / f"{name}.npy", values)
    elif form == "hdf5":
        path.write_bytes(b"\x89HDF\r\n\x1a\n")
        fake = types.SimpleNamespace(File=lambda *_: arrays)
        monkeypatch.setitem(sys.modules, "h5py", fake)
    else:
        path.mkdir()
        (path / "zarr.json").write_text("{}")
        stored = {name: Orthogonal(values) for name, values in arrays.items()}
        fake = types.SimpleNamespace(open=lambda *_, **__: stored)
        monkeypatch.setitem(sys.modules, "zarr", fake)
    dataset = load(spec(path))
    np.testing.assert_array_equal(dataset.train[:], FIELDS[:16].astype(np.float32))
    np.testing.assert_array_equal(dataset.test[:], FIELDS[16:].astype(np.float32))
    np.testing.assert_array_equal(dataset.train_labels, labels)


class Orthogonal:
    """An array with zarr's way to index."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.oindex = (
            values,
            values.shape,
            values.dtype,
            values,
        )

    def __getitem__(self, index):
        return self.values[index]


@pytest.mark.parametrize("package", ["h5py", "zarr"])
def test_a_missing_package_is_named(tmp_path, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / "data"
    if package == "h5py":
        path.write_bytes(b"\x89HDF\r\n\x1a\n")
    else:
        path.mkdir()
        (path / ".zgroup").write_text("{}")
    extra = {"h5py": "hdf5", "zarr": "zarr"}[package]
    with pytest.raises(ValueError, match=rf"needs the package {package}: pip .*\[{extra}\]"):
        load(spec(path))


def test_folders_hold_a_sample_or_several_in_a_file(tmp_path):
    for part, first in (("train", 0), ("test", 10)):
        for name, values in (("a", FIELDS[first : first + 4]), ("b", FIELDS[first + 4])):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            np.save(folder / "1.npy", values)
            np.save(folder / "2.npy", values)
    dataset = load(spec(tmp_path))
    assert dataset.classes == ("a", "b")
    assert dataset.train_labels.tolist() == [0] * 8 + [1] * 2
    np.testing.assert_array_equal(dataset.test[np.array([8])], FIELDS[14:15].astype(np.float32))
    dataset = load(spec(tmp_path / "train", test_fraction=0.2))
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (8, 2, ("a", "b"))
    both = np.concatenate([dataset.train_labels, dataset.test_labels])
    assert sorted(both.tolist()) == [0] * 8 + [1] * 2


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([7, 3], ("3", "7")),
        ([-1, 1], ("-1", "1")),
        (["b", "a"], ("a", "b")),
        ([b"b", b"a"], ("a", "b")),
        ([0, 1], ()),
    ],
    ids=str,
)
def test_labels_that_are_not_counted_from_0_are_numbered_and_recorded(tmp_path, labels, classes):
    given = np.array(labels * 10)
    np.savez(tmp_path / "x.npz", x=FIELDS, labels=given)
    dataset = load(spec(tmp_path / "x.npz"))
    assert dataset.classes == classes
    assert set(dataset.train_labels) == {0, 1}
    if classes:
        assert dataset.notes == (f"classes of the labels: 0 = {classes[0]}, 1 = {classes[1]}",)
        row = np.flatnonzero((FIELDS.astype(np.float32) == dataset.train[:1]).all((1, 2, 3)))[0]
        expected = labels[row % 2]
        expected = expected.decode() if isinstance(expected, bytes) else str(expected)
        assert classes[dataset.train_labels[0]] == expected


def test_data_that_do_not_fit_are_refused_with_the_file(tmp_path):
    np.save(tmp_path / "a.npy", FIELDS)
    np.save(tmp_path / "b.npy", FIELDS[:, :3])
    with pytest.raises(ValueError, match=r"b.npy has the shape \(20, 3, 6, 1\): it must be"):
        load(spec(tmp_path))
    np.save(tmp_path / "b.npy", FIELDS.astype(np.uint16))
    with pytest.raises(ValueError, match=r"b.npy holds values of the type uint16, .*'uint16', or"):
        load(spec(tmp_path))
    np.save(tmp_path / "b.npy", FIELDS.astype(np.int32))
    with pytest.raises(ValueError, match=r"b.npy holds values of the type int32, .* with astype"):
        load(spec(tmp_path))
    np.save(tmp_path / "b.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"b.npy cannot be read"):
        load(spec(tmp_path))
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"b.npy cannot be read"):
        load(spec(tmp_path))


@pytest.mark.parametrize("name", ["", "nowhere", "empty"])
def test_nothing_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "labels.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"give an .npy, .npz, HDF5 or zarr file"):
        load(spec(tmp_path / name if name else ""))


def claimed(folder):
    """The moments of a folder's data: what is small is checked before."""
    dataset = load(spec(folder))
    return claim(Scaling(None, standardized=True), dataset.train, dataset.test, (), folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused_with_their_place(tmp_path, value, how):
    wrong = FIELDS.copy()
    np.save(tmp_path / "a.npy", wrong)
    wrong[7, 1, 2, 0] = value
    np.save(tmp_path / "b.npy", wrong)
    with pytest.raises(ValueError, match=r"first is .* in sample 7 of .*b.npy, at \(1, 2, 0\)"):
        claimed(tmp_path)


def test_a_file_that_vanishes_is_named(tmp_path, how):
    np.save(tmp_path / "a.npy", FIELDS)
    dataset = load(spec(tmp_path / "a.npy"))
    (tmp_path / "a.npy").unlink()
    if how == "lazy":
        with pytest.raises(ValueError, match=r"a.npy cannot be read: .* No such file"):
            dataset.train[:2]


def claimed_as(request, folder):
    """Loads data and takes their moments, by which those beyond memory are checked too."""
    dataset = load(request)
    scaling = Scaling(None, standardized=True, missing=request.missing)
    return claim(scaling, dataset.train, dataset.test, (), folder)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float"])
@pytest.mark.parametrize("channels", [True, False], ids=["values", "pixels"])
def test_a_mask_beside_the_samples_makes_values_missing(tmp_path, dtype, channels, how):
    values = np.arange(480).reshape(20, 4, 3, 2)
    values = values.astype({"float": np.float32}.get(dtype, dtype))
    mask = np.random.RandomState(0).rand(*values.shape[: 4 if channels else 3]) < 0.7
    np.savez(tmp_path / "x.npz", data=values, mask=mask)
    dataset = load(spec(tmp_path / "x.npz", (4, 3, 2), dtype, missing=True))
    both = np.concatenate([dataset.train[:], dataset.test[:]]).astype(np.float64)
    seen = np.broadcast_to(mask if channels else mask[..., None], values.shape)
    assert both.dtype.kind == "f"
    np.testing.assert_array_equal(np.sort(both[~np.isnan(both)]), np.sort(values[seen]))
    assert isinstance(dataset.train, LazyArray) == (how == "lazy")


def test_masks_of_a_folder_go_with_their_parts(tmp_path):
    for name, rows in (("train", slice(16)), ("test", slice(16, None))):
        np.save(tmp_path / f"{name}.npy", FIELDS[rows])
        np.save(tmp_path / f"{name}_mask.npy", np.arange(4 * 6).reshape(4, 6, 1) + FIELDS[rows] > 0)
    dataset = load(spec(tmp_path, missing=True))
    np.testing.assert_array_equal(np.isnan(dataset.test[:])[:, 1:], False)
    assert np.isnan(dataset.train[:]).any()


@pytest.mark.parametrize(
    ("mask", "missing", "message"),
    [
        (np.ones((20, 4, 6), bool), False, "mask marks missing values: set config.data.missing="),
        (np.ones((20, 6), bool), True, r"mask has the shape \(20, 6\): it must be .*\(20, 4, 6\)"),
        (np.ones((20, 4, 6)), True, "mask holds float64: it must be bool or integers"),
        (
            np.full((20, 4, 6), 255),
            True,
            "mask holds 255 to 255: it must be 1 where a value is",
        ),
        (np.zeros((20, 4, 6), bool), True, "samples have no observed value, the first is sample"),
    ],
    ids=["unasked", "shape", "floats", "bytes", "nothing"],
)
def test_masks_that_do_not_fit_are_refused(tmp_path, mask, missing, message, how):
    np.savez(tmp_path / "x.npz", data=FIELDS, mask=mask)
    with pytest.raises(ValueError, match=message):
        claimed_as(spec(tmp_path / "x.npz", missing=missing), tmp_path)


def test_nan_in_fields_is_refused_by_the_option_s_name(tmp_path, how):
    values = FIELDS.copy()
    values[7, 1, 2, 0] = np.nan
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ValueError, match=r"at \(1, 2, 0\); .*set config.data.missing='mask'"):
        claimed_as(spec(tmp_path / "x.npy"), tmp_path)
    dataset = load(spec(tmp_path / "x.npy", missing=True))
    both = np.concatenate([dataset.train[:], dataset.test[:]])
    assert np.isnan(both).sum() == 1


def test_vectors_come_with_the_samples(tmp_path):
    """Each keeps its own, in one array that is split and in two parts."""
    vector = FIELDS[:, 0, :2, 0] * [10, 1]
    np.savez(tmp_path / "one.npz", fields=FIELDS, condition_vector=vector)
    parts = {"train": vector[:15], "test": vector[15:]}
    halves = {f"{part}_condition_vector": rows for part, rows in parts.items()}
    np.savez(tmp_path / "two.npz", train=FIELDS[:15], test=FIELDS[15:], **halves)
    for name in ("one", "two"):
        dataset = load(spec(tmp_path / f"{name}.npz"))
        for part in ("train", "test"):
            values = getattr(dataset, part)[:]
            found = dataset.conditions(part)["vector"]
            np.testing.assert_allclose(found, values[:, 0, :2, 0] * [10, 1], rtol=1e-6)


@pytest.mark.parametrize("rows", [19, 21])
def test_vectors_of_another_number_are_refused(tmp_path, rows):
    vector = np.zeros((rows, 2))
    np.savez(tmp_path / "one.npz", fields=FIELDS, condition_vector=vector)
    with pytest.raises(ValueError, match=f"holds {rows} condition_vector for 20 images"):
        load(spec(tmp_path / "one.npz"))
    halves = {"train_condition_vector": vector, "test_condition_vector": vector[:4]}
    np.savez(tmp_path / "two.npz", train=FIELDS, test=FIELDS[:4], **halves)
    with pytest.raises(ValueError, match=f"there are {rows} conditions 'vector' for 20 samples"):
        load(spec(tmp_path / "two.npz"))


def test_images_come_with_the_samples_and_stay_on_the_disk(tmp_path, how):
    pairs = {"condition_image": (10 * FIELDS[:, :2]).astype(np.float64), "fields": FIELDS}
    np.savez(tmp_path / "one.npz", **pairs)
    dataset = load(spec(tmp_path / "one.npz"))
    for part in ("train", "test"):
        images = dataset.conditions(part)["image"]
        assert isinstance(images, LazyArray) == (how == "lazy")
        expected = 10 * getattr(dataset, part)[:][:, :2]
        np.testing.assert_allclose(images[:], expected, rtol=1e-6)


def test_captions_come_with_the_samples(tmp_path):
    texts = np.array([f"field {value:.3f}" for value in FIELDS[:, 0, 0, 0]])
    np.savez(tmp_path / "x.npz", fields=FIELDS, captions=texts)
    dataset = load(spec(tmp_path / "x.npz"))
    expected = [f"field {value:.3f}" for value in dataset.test[:][:, 0, 0, 0]]
    assert list(dataset.test_captions) == expected
