import sys
import types

import numpy as np
import pytest

from experiments.data.dataset import DataSpec
from experiments.data.load import load

VALUES = np.random.RandomState(0).randn(20, 3).round(3)


def spec(path, columns=3, **more):
    return DataSpec("table", (columns,), str(path), dtype="float", **more)


def write(path, header="length,width,名", rows=None, ends=None):
    rows = VALUES if rows is None else rows
    lines = [
        ",".join(map(str, row)) + (f",{ends[k]}" if ends else "") for k, row in enumerate(rows)
    ]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_columns_of_numbers_with_their_names(tmp_path):
    dataset = load(spec(write(tmp_path / "a table.csv"), test_fraction=0.25))
    assert dataset.columns == ("length", "width", "名")
    assert (len(dataset.train), len(dataset.test)) == (15, 5)
    both = np.concatenate([dataset.train, dataset.test])
    np.testing.assert_array_equal(np.sort(both, 0), np.sort(VALUES, 0).astype(np.float32))


@pytest.mark.parametrize(
    ("values", "classes"),
    [(("b", "a"), ("a", "b")), ((10, 2), ("2", "10")), ((-1, 1), ("-1", "1"))],
)
def test_classes_of_a_column_are_numbered_and_recorded(tmp_path, values, classes):
    path = write(tmp_path / "x.csv", "u,v,w,kind", ends=[values[k % 2] for k in range(20)])
    dataset = load(spec(path, label_column="kind"))
    assert dataset.classes == classes
    assert set(dataset.train_labels) == {0, 1}
    assert dataset.notes == (f"classes of column 'kind': 0 = {classes[0]}, 1 = {classes[1]}",)
    row = np.flatnonzero(np.isclose(VALUES[:, 0], dataset.train[0, 0]))[0]
    assert classes[dataset.train_labels[0]] == str(values[row % 2])


def test_columns_can_be_the_vector_of_a_condition(tmp_path):
    path = write(tmp_path / "x.csv")
    dataset = load(spec(path, 1, condition_columns=("名", "length")))
    assert dataset.columns == ("width",)
    for part in ("train", "test"):
        values, vector = getattr(dataset, part), dataset.conditions(part)["vector"]
        row = np.flatnonzero(np.isclose(VALUES[:, 1], values[0, 0]))[0]
        np.testing.assert_allclose(vector[0], VALUES[row, [2, 0]], rtol=1e-6)
        assert vector.shape == (len(values), 2)
    with pytest.raises(ValueError, match=r"condition_columns has 'depth', but .* length, width"):
        load(spec(path, 2, condition_columns=("depth",)))
    with pytest.raises(ValueError, match=r"condition_columns has 'width'.* can be taken once"):
        load(spec(path, 2, condition_columns=("width", "width")))


def test_columns_can_be_attributes(tmp_path):
    ends = [f"{('b', 'a', '')[k % 3]},{k % 2 + 1}" for k in range(20)]
    path = write(tmp_path / "x.csv", "u,v,w,kind,level", ends=ends)
    dataset = load(spec(path, attribute_columns=("kind", "level")))
    assert dataset.attributes == (("a", "b"), ("1", "2"))
    for part in ("train", "test"):
        for values, found in zip(
            getattr(dataset, part), dataset.conditions(part)["attributes"], strict=True
        ):
            row = int(np.flatnonzero(np.isclose(VALUES[:, 0], values[0]))[0])
            np.testing.assert_array_equal(found, [(1, 0, -1)[row % 3], row % 2])
    with pytest.raises(ValueError, match="attribute_columns has 'depth', but"):
        load(spec(path, attribute_columns=("depth",)))


def test_a_column_can_be_captions(tmp_path):
    ends = [f"wine {k}" if k else "" for k in range(20)]
    path = write(tmp_path / "x.csv", "u,v,w,about", ends=ends)
    dataset = load(spec(path, caption_column="about"))
    for values, caption in zip(dataset.train, dataset.train_captions, strict=True):
        row = int(np.flatnonzero(np.isclose(VALUES[:, 0], values[0]))[0])
        assert caption == ends[row]


def test_two_tables_are_train_and_test(tmp_path):
    write(tmp_path / "train.csv", rows=VALUES[:12])
    write(tmp_path / "test.csv", rows=VALUES[12:])
    dataset = load(spec(tmp_path))
    np.testing.assert_array_equal(dataset.test, VALUES[12:].astype(np.float32))
    write(tmp_path / "test.csv", "length,width,height", VALUES[12:])
    with pytest.raises(ValueError, match=r"test.csv has the columns length, width, height, and"):
        load(spec(tmp_path))


def test_parquet_is_read_by_an_optional_package(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"needs the package pyarrow.*\[parquet\]"):
        load(spec(tmp_path / "x.parquet"))
    columns = {name: VALUES[:, k].tolist() for k, name in enumerate("abc")}
    read = types.SimpleNamespace(to_pydict=lambda: columns)
    fake = types.SimpleNamespace(read_table=lambda path: read)
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(parquet=fake))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", fake)
    assert load(spec(tmp_path / "x.parquet")).columns == ("a", "b", "c")


@pytest.mark.parametrize(
    ("header", "changes", "message"),
    [
        ("a,b,c", {(2, 1): "abc"}, "column 'b' holds 'abc', which is no number, in row 3"),
        ("a,b,c", {(4, 0): ""}, "column 'a' is empty, in row 5"),
        ("a,b,c", {(..., 2): 1}, "column 'c' is constant: leave it out"),
        (
            "a,b,c",
            {(0, 0): "nan"},
            "column 'a' holds nan, which is not finite, in row 1: leave out",
        ),
        ("a,b,c", {(8, 1): "inf"}, "column 'b' holds inf, which is not finite, in row 9"),
        ("a,b", {}, "row 1 has 3 values, and the header names 2 columns"),
        ("a,b,b", {}, "has columns of one name"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_their_column(tmp_path, header, changes, message):
    rows = VALUES.astype(object)
    for place, value in changes.items():
        rows[place] = value
    with pytest.raises(ValueError, match=message):
        load(spec(write(tmp_path / "x.csv", header, rows), test_fraction=0.05))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"columns": 2}, r"x.csv has 3 columns of numbers \(a, b, c\): set .*shape=\(3,\)"),
        ({"label_column": "d"}, "label_column is 'd', but .* has the columns a, b, c"),
    ],
    ids=str,
)
def test_tables_that_do_not_fit_the_config_are_refused(tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        load(spec(write(tmp_path / "x.csv", "a,b,c"), **more))


@pytest.mark.parametrize("name", ["", "nowhere.csv", "empty", "text.txt", "header.csv"])
def test_no_table_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "header.csv").write_text("a,b,c\n")
    with pytest.raises(ValueError, match=r"give a \.csv|no rows below a header"):
        load(spec(tmp_path / name if name else ""))


@pytest.mark.parametrize(
    ("name", "columns", "rows", "classes"),
    [("wine", 13, 178, 3), ("breast_cancer", 30, 569, 2), ("diabetes", 10, 442, 0)],
)
def test_included_tables(name, columns, rows, classes):
    dataset = load(DataSpec(name, (columns,), dtype="float"))
    assert len(dataset.train) + len(dataset.test) == rows
    assert len(dataset.columns) == columns
    assert len(dataset.classes) == dataset.n_classes == classes


GAPS = [("1", "", "2"), ("NA", "3", "nan"), ("4", "?", "5"), ("6", "7", "8.5")] * 5


def test_missing_values_are_nan_where_they_are_allowed(tmp_path):
    path = write(tmp_path / "x.csv", rows=GAPS)
    dataset = load(spec(path, test_fraction=0.25, missing=True))
    both = np.concatenate([dataset.train, dataset.test])
    assert np.isnan(both).sum(0).tolist() == [5, 10, 5]
    assert np.nanmax(both) == 8.5


@pytest.mark.parametrize(
    ("rows", "missing", "message"),
    [
        (["1,,2", "0,2,1"], False, "'width' is empty, in row 1.*set config.data.missing='mask'"),
        (["1,2,2", "NA,2,1"], False, "'length' holds 'NA', .* row 2.*config.data.missing='mask'"),
        (["1,2,nan", "0,1,2"], False, "'名' holds nan, .* in row 1: .*config.data.missing='mask'"),
        (
            ["1,2,inf", ",1,0", "0,1,1"],
            True,
            "'名' holds inf, which is not finite, in row 1: ",
        ),
        (["1,,2", "0,,1"], True, "column 'width' has no observed value: leave it out"),
        (["1,,2", "1,3,1", ",4,0"], True, "column 'length' is constant"),
        (["1,2,3", "2,1,2", ",NaN,"], True, "1 samples have no observed value, .* is row 3"),
        (["1,2,x", "0,1,2"], True, "'名' holds 'x', which is no number, in row 1"),
    ],
)
def test_tables_with_gaps_are_refused_with_the_way_out(tmp_path, rows, missing, message):
    (tmp_path / "x.csv").write_text("\n".join(["length,width,名", *rows]), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load(spec(tmp_path / "x.csv", missing=missing))
