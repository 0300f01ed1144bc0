"""Tables of numbers: CSV and Parquet files, and three that scikit-learn includes."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.conditions.attributes import as_texts
from experiments.data.dataset import Dataset, DataSpec, note_of, numbered, split
from experiments.data.lazy_arrays import MASK_OPTION, check_finite
from experiments.data.sources import parts
from experiments.data.sources.optional import require
from experiments.runs.files import reading

NO_VALUE = ("", "na", "n/a", "null", "none", "?")  # texts of missing values, in any case
READERS = (".csv", ".tsv", ".parquet")
EXPECTED = "a .csv, .tsv or .parquet file, or a folder of such files train and test"
INCLUDED = {  # by name: description and number of columns
    "wine": ("scikit-learn's wine, chemical analyses of wines (UCI, Aeberhard and Forina)", (13,)),
    "breast_cancer": (
        "scikit-learn's breast cancer, measurements of cell nuclei (UCI, Wolberg et al. 1995)",
        (30,),
    ),
    "diabetes": (
        "scikit-learn's diabetes, measurements of patients and the progression of their disease "
        "(Efron et al. 2004), without their sex",
        (10,),
    ),
}


class Table(NamedTuple):
    """The columns of a table by their names, and its name in errors."""

    where: str
    columns: Mapping[str, Sequence[Any]]


def load(spec: DataSpec) -> Dataset:
    """The table at spec.path. Its column spec.label_column has the classes, if there are any.

    Raises:
        ValueError: no table, other columns than the config says, or a value that is no number.
    """
    path = Path(spec.path)
    if not spec.path or not path.exists():
        raise ValueError(f"config.data.path = {spec.path!r} does not exist: give {EXPECTED}")
    if not path.is_dir():
        return _split(spec, _read(path))
    found = {file.stem: file for file in sorted(path.iterdir()) if file.suffix.lower() in READERS}
    chosen = parts.choose(path, found)
    if chosen is None or chosen.test is None:
        raise ValueError(f"{path} holds no tables train and test: give {EXPECTED}")
    train, test = (_read(found[name]) for name in (chosen.train, chosen.test))
    if list(train.columns) != list(test.columns):
        raise ValueError(
            f"{test.where} has the columns {', '.join(test.columns)}, and {train.where} has "
            f"{', '.join(train.columns)}: give both the same"
        )
    n = len(next(iter(train.columns.values())))
    both = {name: [*train.columns[name], *test.columns[name]] for name in train.columns}
    whole = _dataset(spec, Table(str(path), both))
    return _rows(whole, np.arange(n), np.arange(n, len(whole.train)), None)


def load_included(spec: DataSpec) -> Dataset:
    """The table of scikit-learn that the spec names, with its classes if it has some."""
    from sklearn import datasets  # takes 0.9 s, so only these data sets import it

    loader = getattr(datasets, f"load_{spec.name}")
    found = loader(scaled=False) if spec.name == "diabetes" else loader()
    columns = dict(zip(map(str, found.feature_names), found.data.T, strict=True))
    if spec.name == "diabetes":
        del columns["sex"]  # two values have no density
        columns["progression"] = found.target
        return _split(spec, Table(spec.name, columns))
    labels = np.asarray(found.target_names)[found.target].tolist()
    labelled = {**columns, "class": labels}
    return _split(dataclasses.replace(spec, label_column="class"), Table(spec.name, labelled))


def _read(path: Path) -> Table:
    if path.suffix.lower() not in READERS:
        raise ValueError(f"config.data.path = {str(path)!r} is no table: give {EXPECTED}")
    with reading(path, EXPECTED):
        if path.suffix.lower() == ".parquet":
            parquet = require("pyarrow.parquet", "parquet")
            columns = parquet.read_table(path).to_pydict()
            return Table(str(path), columns)
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file, delimiter=separator) if row] or [[]]
    if len(set(header)) != len(header) or not header or not rows:
        what = "columns of one name" if rows and header else "no rows below a header"
        raise ValueError(f"{path} has {what}: give a table whose first line names its columns")
    for k, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(
                f"{path}: row {k + 1} has {len(row)} values, and the header names {len(header)} "
                "columns"
            )
    return Table(str(path), dict(zip(header, zip(*rows, strict=True), strict=True)))


def _split(spec: DataSpec, table: Table) -> Dataset:
    whole = _dataset(spec, table)
    return _rows(whole, *split(len(whole.train), spec.test_fraction), spec.test_fraction)


def _rows(whole: Dataset, train: Any, test: Any, share: float | None) -> Dataset:
    labels, conditions = whole.train_labels, whole.train_conditions
    about: dict[str, Any] = {"classes": whole.classes, "columns": whole.columns}
    for part, chosen in (("train", train), ("test", test)):
        own = {kind: rows[chosen] for kind, rows in conditions.items()}
        about[f"{part}_conditions"] = own
        if whole.train_captions is not None:
            about[f"{part}_captions"] = whole.train_captions[chosen]
    if labels is not None:
        about |= {"train_labels": labels[train], "test_labels": labels[test]}
    values: Any = whole.train
    return Dataset(values[train], values[test], None, **about, notes=whole.notes, test_share=share)


def _dataset(spec: DataSpec, table: Table) -> Dataset:
    """The data set with all rows in train."""
    where, columns = table.where, dict(table.columns)
    labels, classes, notes = None, (), ()
    if spec.label_column:
        if spec.label_column not in columns:
            raise ValueError(
                f"config.data.label_column is {spec.label_column!r}, but {where} has the columns "
                f"{', '.join(columns)}"
            )
        found = columns.pop(spec.label_column)
        if any(value in (None, "") for value in found):
            raise ValueError(f"{where}: column {spec.label_column!r} has rows without a class")
        classes, labels = numbered(found)
        notes = (note_of(f"column {spec.label_column!r}", classes),)
    conditions = _conditions(spec, where, columns)
    captions = None
    if spec.caption_column:
        texts = _taken(spec.caption_column, "caption_column", where, columns)
        captions = np.array([str(text or "") for text in texts], dtype=object)
    parsed = [_numbers(where, *column, spec.missing) for column in columns.items()]
    values = np.stack(parsed, axis=1)
    if values.shape[1:] != spec.shape:
        raise ValueError(
            f"config.data.shape is {spec.shape}, but {where} has {len(columns)} columns of numbers "
            f"({', '.join(columns)}): set config.data.shape=({len(columns)},)"
        )
    names = tuple(columns)
    check_finite(values, where, lambda k: f"row {k + 1}", names, spec.missing)
    about: dict[str, Any] = {"classes": classes, "columns": names, "notes": notes}
    about |= {"train_conditions": conditions, "train_captions": captions}
    return Dataset(values, values[:0], None, labels, **about)


def _taken(name: str, field: str, where: str, columns: dict[str, Any]) -> Any:
    """Takes a column out of the columns."""
    if name not in columns:
        raise ValueError(
            f"config.data.{field} has {name!r}, but {where} has the columns {', '.join(columns)}, "
            "each of which can be taken once"
        )
    return columns.pop(name)


def _conditions(spec: DataSpec, where: str, columns: dict[str, Any]) -> dict[str, np.ndarray]:
    """Takes the columns of conditions out of the columns: a vector and attributes, if any."""

    def taken(field: str) -> dict[str, Any]:
        return {name: _taken(name, field, where, columns) for name in getattr(spec, field)}

    vector = [_numbers(where, *c, missing=False) for c in taken("condition_columns").items()]
    attributes = [as_texts(where, list(c))[:, 0] for c in taken("attribute_columns").values()]
    found = {"vector": vector, "attributes": attributes}
    return {kind: np.stack(values, axis=1) for kind, values in found.items() if values}


def _numbers(where: str, name: str, values: Sequence[Any], missing: bool) -> np.ndarray:
    """A column as float32, with NaN for missing values if `missing` allows them.

    Raises:
        ValueError: a value that is no number, with its row; no observed value, or one value alone.
    """
    numbers = np.empty(len(values))
    for row, value in enumerate(values):
        no_value = value is None or str(value).strip().lower() in NO_VALUE
        try:
            numbers[row] = np.nan if no_value else value
            is_number = missing or not no_value
        except (TypeError, ValueError):
            is_number = False
        if not is_number:
            what = "is empty" if value in (None, "") else f"holds {value!r}, which is no number"
            option = f"; {MASK_OPTION.replace('NaN', 'it')}" if no_value else ""
            raise ValueError(
                f"{where}: column {name!r} {what}, in row {row + 1}: leave out the column or the "
                f"row, or make config.data.label_column of it if it is the class{option}"
            )
    wrong = np.flatnonzero(np.isinf(numbers) if missing else ~np.isfinite(numbers))
    if len(wrong):
        option = f"; {MASK_OPTION}" if np.isnan(numbers[wrong[0]]) else ""
        raise ValueError(
            f"{where}: column {name!r} holds {values[wrong[0]]}, which is not finite, in row "
            f"{wrong[0] + 1}: leave out the row, or fill the value in{option}"
        )
    if np.isnan(numbers).all():
        raise ValueError(f"{where}: column {name!r} has no observed value: leave it out")
    if np.nanmin(numbers) == np.nanmax(numbers):
        raise ValueError(f"{where}: column {name!r} is constant: leave it out, it has no density")
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)
