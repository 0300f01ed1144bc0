"""HDF5, zarr and Parquet by the libraries themselves, where they are installed."""

import numpy as np
import pytest

from experiments.data import lazy_arrays
from experiments.data.dataset import DataSpec
from experiments.data.lazy_arrays import LazyArray
from experiments.data.load import load

FIELDS = np.random.RandomState(0).randn(40, 4, 6, 1)
SEEN = np.random.RandomState(1).rand(40, 4, 6) < 0.7
WORDS = ["cat", "dog"] * 20


@pytest.fixture(params=["memory", "lazy"], autouse=True)
def how(request, monkeypatch):
    if request.param == "lazy":
        monkeypatch.setattr(lazy_arrays, "IN_MEMORY", 0)
    return request.param


def spec(path, **more):
    return DataSpec("arrays", (4, 6, 1), str(path), dtype="float", **more)


def check(path, how, whole=FIELDS, **more):
    """The samples of a file are those of `whole`, in either way of reading."""
    dataset = load(spec(path, **more))
    assert isinstance(dataset.train, LazyArray) == (how == "lazy")
    both = np.concatenate([dataset.train[:], dataset.test[:]])
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(whole.astype(np.float32), axis=0))
    rows = np.array([3, 0, 3])
    np.testing.assert_array_equal(dataset.train[rows], dataset.train[:][rows])
    return dataset


def test_hdf5_in_compressed_chunks_with_words_for_labels(tmp_path, how):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "fields of 数.h5"
    for words in (np.array(WORDS, h5py.string_dtype()), np.array(WORDS, "S3")):
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=FIELDS, chunks=(7, 4, 6, 1), compression="gzip")
            file["labels"] = words
            file.create_group("more")
        assert check(path, how).classes == ("cat", "dog")


def test_hdf5_with_a_mask(tmp_path, how):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"], file["mask"] = FIELDS, SEEN
    whole = np.where(SEEN[..., None], FIELDS, np.nan)
    check(tmp_path / "x.h5", how, whole, missing=True)


def test_hdf5_without_arrays_outside_of_groups_or_with_a_number_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("g")["x"] = FIELDS
    with pytest.raises(ValueError, match="holds no arrays, but for those within groups"):
        load(spec(tmp_path / "x.h5"))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["n"] = FIELDS, 40
    with pytest.raises(ValueError, match=r"x.h5: n is a single value: leave it out"):
        load(spec(tmp_path / "x.h5"))
    whole = (tmp_path / "x.h5").read_bytes()
    (tmp_path / "x.h5").write_bytes(whole[:900])
    with pytest.raises(ValueError, match=r"x.h5 cannot be read: .*truncated"):
        load(spec(tmp_path / "x.h5"))


@pytest.mark.parametrize("form", [2, 3])
def test_zarr_groups_arrays_and_zip_files(tmp_path, form, how):
    zarr = pytest.importorskip("zarr", minversion="3")
    path = tmp_path / "fields of 数.zarr"
    array = zarr.create_array(
        str(path), shape=FIELDS.shape, dtype="f8", chunks=(7, 4, 6, 1), zarr_format=form
    )
    array[:] = FIELDS
    check(path, how)
    group = zarr.open_group(str(tmp_path / "group"), mode="w", zarr_format=form)
    for name, rows in (("train", slice(30)), ("test", slice(30, None))):
        group.create_array(name, data=FIELDS[rows].astype(np.float32))
        labels = group.create_array(f"{name}_labels", shape=(len(FIELDS[rows]),), dtype="str")
        labels[:] = np.array(WORDS[rows])
    assert check(tmp_path / "group", how).classes == ("cat", "dog")
    store = zarr.storage.ZipStore(str(tmp_path / "x.zip"), mode="w")
    zarr.create_array(store, data=FIELDS, zarr_format=form)
    store.close()
    check(tmp_path / "x.zip", how)


def table(path, **more):
    return load(DataSpec("table", (3,), str(path), dtype="float", **more))


def test_parquet_with_nulls_and_classes(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    gaps = [None if k % 3 == 0 else k for k in range(40)]
    columns = {
        "a": FIELDS[:, 0, 0, 0],
        "b": arrow.array(gaps, arrow.int64()),
        "数": list(range(40)),
    }
    columns["kind"] = arrow.array(WORDS).dictionary_encode()
    path = tmp_path / "a table.parquet"
    parquet.write_table(arrow.table(columns), path)
    with pytest.raises(ValueError, match=r"'b' is empty, in row 1.*config.data.missing='mask'"):
        table(path, label_column="kind")
    dataset = table(path, label_column="kind", missing=True)
    assert (dataset.columns, dataset.classes) == (("a", "b", "数"), ("cat", "dog"))
    both = np.concatenate([dataset.train, dataset.test])
    assert np.isnan(both).sum(0).tolist() == [0, 14, 0]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"a table.parquet cannot be read"):
        table(path)
