"""Training, test and validation data, by the names of folders or splits."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

NAMES = {  # of each part, in any case
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
}
_UNCLEAR = (
    "{} may be a part of the data or a class; name the folders of parts train/ and test/ (or "
    "val/), and those of classes otherwise (such as trains/)"
)
_PART = {name: part for part, names in NAMES.items() for name in names}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class Parts(NamedTuple):
    """The names of the parts that are used, and of those that are not."""

    train: str
    test: str | None
    left_out: tuple[str, ...]


def are_parts(names: Iterable[str]) -> bool:
    """True if all of the names are those of parts, in any case."""
    return all(name.casefold() in _PART for name in names)


def choose(where: Any, names: Iterable[str]) -> Parts | None:
    """The part to train on, and test data or else validation data; None without names of parts.

    Raises:
        ValueError: two names for one part, or no training data among them.
    """
    names, found = sorted(names), {}
    for name in names:
        if part := _PART.get(name.casefold()):
            if part in found:
                raise ValueError(
                    f"{where} has {found[part]} and {name}, two names of the {part} data: keep one"
                )
            found[part] = name
    if not found:
        return None
    if "train" not in found:
        raise ValueError(
            f"{where} has {', '.join(found.values())}, but no train data: add them, or set "
            "config.data.path to one of these alone"
        )
    train, test = found["train"], found.get("test") or found.get("val")
    return Parts(train, test, tuple(name for name in names if name not in (train, test)))


def check_classes(where: Any, folders: Iterable[str], inner: Iterable[str]) -> None:
    """Raises ValueError for folders that would be classes, and look like parts.

    Args:
        where: the data set's name in errors.
        folders: names of the outermost folders.
        inner: names of the folders within.
    """
    folders = sorted(folders)
    like_parts = [name for name in folders if _words(name) & _PART.keys()]
    if all(any(part in name.casefold() for part in NAMES) for name in folders):
        like_parts = folders  # such as traindata/ and testdata/
    if like_parts:
        shown = f"{', '.join(folders[:5])}{' ...' if folders[5:] else ''}"
        raise ValueError(f"{where} has the folders {shown}: {_UNCLEAR.format(like_parts[0])}")
    parts = {part: name for name in inner if (part := _PART.get(name.casefold()))}
    if "train" in parts and len(parts) > 1:
        raise ValueError(
            f"{where} has the parts {', '.join(sorted(parts.values()))} within {folders[0]}: put "
            "the parts outermost, as train/CLASS/... and test/CLASS/..."
        )


def check_left_out(where: Any, folders: Iterable[str]) -> None:
    """Raises ValueError for a folder beside train/ and test/ whose name has that of a part in it.

    Whole names of parts, such as val, may be left out.
    """
    for name in folders:
        if name.casefold() not in _PART and _words(name) & _PART.keys():
            raise ValueError(f"{where} has the folder {name} beside: {_UNCLEAR.format(name)}")


def _words(name: str) -> set[str]:
    """The words of a name, such as train and images of trainImages2017."""
    return {word.casefold() for word in _WORD.findall(name)}
