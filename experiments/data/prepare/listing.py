"""The images of a folder, a .zip or a table, with their classes, captions and parts."""

import csv
import io
import json
import posixpath
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from experiments.data.sources import parts
from experiments.data.sources.files import LABELS, SUFFIXES
from experiments.data.sources.members import Members, members
from experiments.runs.files import reading

FILE = ("file_name", "file", "filename", "path", "image", "image_path", "name")
LABEL = ("label", "class", "category", "target", "y")
CAPTION = ("text", "caption", "captions", "prompt", "description", "title")
METADATA = ("metadata.jsonl", "metadata.csv")
TABLES = (".csv", ".jsonl")
FORM = "a .csv with the columns file and label or text, or a .jsonl with file_name and text"


class Item(NamedTuple):
    """An image.

    Attributes:
        name: relative to the folder, or in the .zip.
        part: "train" or "test"; "" if the hash decides.
        label: name of the class; None without classes.
        caption: None without captions at all; "" if only this image has none.
    """

    name: str
    part: str
    label: str | None
    caption: str | None


class Listing(NamedTuple):
    """The images below a path.

    Attributes:
        root: the folder or the .zip.
        items: the images, by name.
        left_out: names of files, and of rows of a table, by the reason why they are not used.
        notes: what was assumed, a sentence each.
    """

    root: Path
    items: list[Item]
    left_out: dict[str, list[str]]
    notes: tuple[str, ...]


class _Table(NamedTuple):
    """Labels and captions by the normal names of files, and the columns that they are from."""

    labels: dict[str, str]
    captions: dict[str, str]


def list_images(path: Path, table: str, label_column: str, caption_column: str) -> Listing:
    """Lists the images, without opening them.

    Args:
        path: a folder, a .zip, or a table whose names are relative to its own folder.
        table: a file with a row for each image, FORM; "": metadata.jsonl, metadata.csv or
            dataset.json in the folder, if there is one.
        label_column: of the table; "": the first with a name in LABEL.
        caption_column: likewise, in CAPTION.

    Raises:
        ValueError: no such path, no images, or a table that does not fit.
    """
    if path.is_file() and path.suffix.lower() in TABLES and not zipfile.is_zipfile(path):
        path, table = path.parent, str(path)
    if not (path.is_dir() or zipfile.is_zipfile(path)):
        raise ValueError(f"--data={path} is neither a folder, a .zip file nor a table: give {FORM}")
    files = members(path)
    names = sorted(n for n in files.names if posixpath.splitext(n)[1].lower() in SUFFIXES)
    if not names:
        raise ValueError(f"{path} holds no image: it needs files {', '.join(sorted(SUFFIXES))}")
    found, read = _tables(path, files, table, (label_column, caption_column))
    captions, texts = _texts_beside(files, names) if not found.captions else (found.captions, [])
    left_out = defaultdict(list)
    others = {*files.names} - {*names, *texts, *read}
    left_out["no image by its name"] = sorted(others)
    left_out["a link that leads nowhere"] = files.broken
    normal = {name: _normal(name) for name in names}
    unknown = {*found.labels, *captions} - {*normal.values()}
    left_out["in the table, but not in the folder"] = sorted(unknown)
    places, notes = _places(path, names, left_out)
    if found.labels:
        labels: dict[str, str | None] = {n: found.labels.get(normal[n]) for n in places}
        left_out["no label in the table"] = [n for n in places if labels[n] is None]
        places = {n: part for n, part in places.items() if labels[n] is not None}
    else:
        labels, note = _folder_labels(path, places)
        notes += note
    items = [
        Item(name, part, labels[name], captions.get(normal[name], "") if captions else None)
        for name, (part, _) in places.items()
    ]
    if not items:
        raise ValueError(f"{path}: no image has a label in the table; give {FORM}")
    return Listing(path, items, {k: v for k, v in left_out.items() if v}, notes)


def in_order(names: Iterable[str]) -> list[str]:
    """The names in alphabetical order, or by size if all are whole numbers: 2 comes before 10."""
    names = {*names}
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def _normal(name: str) -> str:
    """A name in one form of Unicode, which systems write in two, without ./ and backslashes."""
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def _places(
    path: Path, names: list[str], left_out: dict[str, list[str]]
) -> tuple[dict[str, tuple[str, str]], tuple[str, ...]]:
    """The part of each image that is used, and its folder within the part; and notes."""
    root = posixpath.commonpath([posixpath.dirname(name) for name in names])
    below = {name: PurePosixPath(name).relative_to(root or ".").parts for name in names}
    outer = {name: part[0] if len(part) > 1 else "" for name, part in below.items()}
    counts = Counter(outer.values())
    counts.pop("", 0)
    chosen = parts.choose(path, counts)
    if chosen is None or chosen.test is None:
        parts.check_classes(path, counts, {name for part in below.values() for name in part[1:-1]})
        return {name: ("", outer[name]) for name in names}, ()
    parts.check_left_out(path, chosen.left_out)
    part_of = {chosen.train: "train", chosen.test: "test"}
    for name in names:
        if outer[name] not in part_of:
            left_out[f"outside of {chosen.train} and {chosen.test}"].append(name)
    note = f"the training data are those in {chosen.train}, the test data in {chosen.test}"
    places = {
        name: (part_of[outer[name]], below[name][1] if len(below[name]) > 2 else "")
        for name in names
        if outer[name] in part_of
    }
    return places, (note,)


def _folder_labels(
    path: Path, places: dict[str, tuple[str, str]]
) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Classes by folders, if there are several and no image is outside of them; and notes."""
    folders = {folder for _, folder in places.values()}
    if len(folders - {""}) > 1 and "" not in folders:
        return {name: folder for name, (_, folder) in places.items()}, ()
    loose = [name for name, (_, folder) in places.items() if not folder]
    note = f"no classes: {len(loose):,} images are outside of the folders, such as {loose[:1]}"
    return dict.fromkeys(places), (note,) * (len(folders - {""}) > 1)


def _texts_beside(files: Members, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Captions in text files with the images' names, by these; and the text files."""
    stems = {posixpath.splitext(name)[0]: name for name in names}
    found, texts = {}, []
    for name in files.names:
        stem, suffix = posixpath.splitext(name)
        if suffix.lower() == ".txt" and stem in stems:
            with reading(name, "captions in UTF-8"), files.open(name) as file:
                found[_normal(stems[stem])] = " ".join(file.read().decode("utf-8-sig").split())
            texts.append(name)
    return found, texts


def _tables(
    path: Path, files: Members, table: str, columns: tuple[str, str]
) -> tuple[_Table, list[str]]:
    """The table, and the files that it was read from."""
    if table:
        where = next((p for p in (Path(table), path / table) if p.is_file()), None)
        if where is None:
            raise ValueError(f"config.prepare.table is {table!r}: there is no such file")
        with reading(where, FORM):
            encoded = where.read_bytes()
        inside = where.resolve().is_relative_to(path.resolve())
        name = where.resolve().relative_to(path.resolve()).as_posix() if inside else where.name
        rows = _rows(str(where), encoded, "" if not inside else posixpath.dirname(name))
        return _table(str(where), rows, columns), [name]
    read = [name for name in files.names if posixpath.basename(name) in METADATA]
    read = read or [name for name in files.names if posixpath.basename(name) == LABELS]
    rows = []
    for name in read:
        with reading(name, FORM), files.open(name) as file:
            rows += _rows(name, file.read(), posixpath.dirname(name))
    return _table(", ".join(read), rows, columns) if rows else _Table({}, {}), read


def _rows(name: str, encoded: bytes, folder: str) -> list[dict[str, Any]]:
    """The rows of a table; names of files are made relative to the images' folder."""
    with reading(name, FORM):
        text = encoded.decode("utf-8-sig")
        if name.lower().endswith(".jsonl"):
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        elif name.lower().endswith(".json"):
            pairs = json.loads(text)["labels"] or []
            rows = [{"file": file, "label": label} for file, label in pairs]
        else:
            rows = _csv_rows(text)
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line is no JSON object")
    key = _first(FILE, rows, "")
    if not rows:
        return []
    if key is None:
        known = ", ".join(map(str, rows[0]))
        raise ValueError(
            f"{name} has the columns {known}, but none of {', '.join(FILE)}: give {FORM}"
        )
    return [
        {**row, "file": _normal(posixpath.join(folder, str(row[key])))}
        for row in rows
        if row.get(key) not in (None, "")
    ]


def _csv_rows(text: str) -> list[dict[str, Any]]:
    """The rows of comma-separated values; without a line of names these are file, label, text."""
    lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    if lines and not {cell.strip().casefold() for cell in lines[0]} & {*FILE}:
        lines.insert(0, ["file", "label", "text"][: len(lines[0])])
    names = [cell.strip() for cell in lines[0]] if lines else []
    return [dict(zip(names, line, strict=False)) for line in lines[1:]]


def _table(name: str, rows: list[dict[str, Any]], columns: tuple[str, str]) -> _Table:
    """The labels and captions of rows that name each file once, or of captions the first."""
    found = []
    for column, known, field in zip(
        columns, (LABEL, CAPTION), ("label_column", "caption_column"), strict=True
    ):
        key = _first(known, rows, column)
        if column and key is None:
            raise ValueError(
                f"config.prepare.{field} is {column!r}, but {name} has no such column: choose one "
                f"of {', '.join(sorted({*rows[0]})) if rows else 'none'}"
            )
        values: dict[str, str] = {}
        for row in rows:
            value = row.get(key or "")
            if value in (None, "", []):
                continue
            text = str(value[0] if isinstance(value, list) else value)
            if values.setdefault(row["file"], text) != text and known is LABEL:
                raise ValueError(
                    f"{name} has two labels of {row['file']}, {values[row['file']]!r} and "
                    f"{text!r}: keep one"
                )
        found.append(values)
    return _Table(*found)


def _first(known: Iterable[str], rows: list[dict[str, Any]], chosen: str) -> str | None:
    """The column that is chosen, or else the first one with a known name."""
    names = {str(name): str(name) for row in rows[:1000] for name in row}
    if chosen:
        return chosen if chosen in names else None
    folded = {name.casefold(): name for name in names}
    return next((folded[name] for name in known if name in folded), None)
