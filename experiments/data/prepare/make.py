"""A prepared data set: images in .npy files that are read lazily, with labels and captions.

| file                                  | holds                                                 |
| ------------------------------------- | ----------------------------------------------------- |
| data.json                             | shape, names of the classes, and how it was made      |
| train.npy, test.npy                   | uint8 images [N, H, W, C]                             |
| train_labels.npy, test_labels.npy     | int32 labels [N], if there are classes                |
| train_captions.jsonl, test_...        | a string a line, if there are captions                |
| files.csv                             | the file, split, row and class of each image          |
| report.json, samples.png              | the report, and some of the images                    |
"""

import csv
import dataclasses
import hashlib
import json
import math
import shutil
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self, TextIO

import numpy as np

from experiments.data.dataset import SPLITS, as_labels
from experiments.data.prepare.listing import Item, Listing, in_order
from experiments.data.prepare.picture import Transform
from experiments.data.prepare.source import ABOUT, VERSION
from experiments.data.prepare.work import Done, prepare_all
from experiments.runs import files, progress

LEAST = 2  # samples of each split


class Rows:
    """An .npy file to which arrays of one shape are added one by one."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.shape, self.n = shape, 0
        self._file: IO[bytes] = path.open("wb")
        self._write_header()

    def add(self, row: np.ndarray) -> None:
        """Adds a row."""
        self._file.write(row.tobytes())
        self.n += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.seek(0)
        self._write_header()  # numpy leaves room for the digits of N: the length stays the same
        self._file.close()

    def _write_header(self) -> None:
        about = {"descr": "|u1", "fortran_order": False, "shape": (self.n, *self.shape)}
        np.lib.format.write_array_header_1_0(self._file, about)


@dataclasses.dataclass
class Made:
    """The counts of a data set that is being made.

    Attributes:
        shape: (H, W, C).
        labels: names of the classes by split, in the order of the rows; None in place of a name
            without classes.
        left_out: names of files by the reason why they are not used.
        sizes: numbers of images by their (width, height) in the files.
        traits: numbers of images by what was changed.
        no_caption: images without a caption, if others have one.
    """

    shape: tuple[int, int, int]
    labels: dict[str, list[str | None]]
    left_out: dict[str, list[str]]
    sizes: Counter[tuple[int, int]] = dataclasses.field(default_factory=Counter)
    traits: Counter[str] = dataclasses.field(default_factory=Counter)
    no_caption: int = 0

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return in_order(
            name for names in self.labels.values() for name in names if name is not None
        )


def check_output(data: Path, output: Path) -> None:
    """Raises ValueError for an output that exists, or that is in the folder of the images."""
    if output.exists():
        raise ValueError(
            f"--output={output} exists already: choose another, or delete it; "
            + (
                "it holds a prepared data set that can be used as it is"
                if (output / ABOUT).exists()
                else "it is no prepared data set"
            )
        )
    if data.is_dir() and output.resolve().is_relative_to(data.resolve()):
        raise ValueError(
            f"--output={output} is in the folder of the images, {data}, where it would be taken "
            "for images: choose one outside"
        )


def make(
    listing: Listing,
    output: Path,
    transform: Transform,
    test_fraction: float,
    processes: int | None = None,
) -> Made:
    """Prepares the images of a listing, and writes the data set into a folder.

    An image whose pixels another one has is left out. Without parts, the digest of a file's bytes
    decides on its split: it stays the same when other files are added, and at other sizes.

    Args:
        listing: of the images.
        output: the folder to make; it appears once it is complete.
        transform: of each image.
        test_fraction: share of the images for tests, of data without parts.
        processes: that prepare images; None: one for each core.

    Raises:
        ValueError: images of several sizes and no size to make them, no room on the disk, or too
            few images.
    """
    names = [item.name for item in listing.items]
    done = prepare_all(listing.root, names, transform, processes)
    done = progress.track(done, f"preparing {listing.root}", "image", len(names))
    captioned = any(item.caption for item in listing.items)
    temporary = output.with_name(f"{output.name}.part")
    if temporary.exists():  # of an earlier try that was stopped
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    with _Writer(temporary, len(names), test_fraction, captioned) as writer:
        for item, each in zip(listing.items, done, strict=True):
            writer.add(item, each)
    made = writer.made
    for reason, some in listing.left_out.items():
        made.left_out[reason].extend(some)
    _check_counts(made, listing)
    numbers = {name: k for k, name in enumerate(made.classes)}
    for split, labels in made.labels.items() if numbers else ():
        rows = as_labels("classes", [numbers[str(name)] for name in labels])
        np.save(temporary / f"{split}_labels.npy", rows)
    about = {
        "version": VERSION,
        "shape": made.shape,
        "classes": made.classes,
        "captions": captioned,
        "images": {split: len(labels) for split, labels in made.labels.items()},
        "transform": dataclasses.asdict(transform),
        "notes": listing.notes,
    }
    files.write_json(temporary / ABOUT, about)
    temporary.replace(output)
    return made


class _Writer:
    """Writes images, captions and the table of files as they come, and counts them."""

    def __init__(self, folder: Path, n: int, test_fraction: float, captioned: bool):
        self.made = Made((0, 0, 0), {split: [] for split in SPLITS}, defaultdict(list))
        self._folder, self._n, self._fraction = folder, n, test_fraction
        self._captioned, self._seen, self._first = captioned, dict[bytes, str](), ""
        self._stack, self._rows = ExitStack(), dict[str, Rows]()

    def __enter__(self) -> Self:
        self._captions = {
            split: self._open(f"{split}_captions.jsonl") for split in SPLITS if self._captioned
        }
        self._table = csv.writer(self._open("files.csv"), lineterminator="\n")
        self._table.writerow(("file", "split", "row", "class"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, name: str) -> TextIO:
        path = self._folder / name
        file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        return self._stack.enter_context(file)

    def add(self, item: Item, done: Done) -> None:
        """Adds an image, unless it cannot be used or is a copy of another one."""
        made, picture = self.made, done.picture
        if picture is None:
            said = f" ({done.detail})" if done.detail else ""
            made.left_out[done.failure].append(f"{item.name}{said}")
            return
        self._check_shape(item.name, picture.pixels.shape)
        same = hashlib.blake2b(picture.pixels.data, digest_size=16).digest()
        if same in self._seen:
            copy = f"{item.name} ({self._seen[same]})"
            made.left_out["the same pixels as another image"].append(copy)
            return
        self._seen[same] = item.name
        split = item.part or split_of(done.digest, self._fraction)
        self._table.writerow((item.name, split, self._rows[split].n, item.label or ""))
        self._rows[split].add(picture.pixels)
        made.labels[split].append(item.label)
        made.sizes[picture.size] += 1
        made.traits.update(picture.traits)
        if self._captioned:
            self._captions[split].write(json.dumps(item.caption or "") + "\n")
            made.no_caption += not item.caption

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Opens the files for the first image. Raises ValueError for one of another shape."""
        made = self.made
        if not self._rows:
            height, width, channels = shape
            made.shape, self._first = (height, width, channels), name
            self._check_room(math.prod(shape))
            for split in SPLITS:
                rows = Rows(self._folder / f"{split}.npy", shape)
                self._rows[split] = self._stack.enter_context(rows)
        if shape != made.shape:
            sizes = [f"{each[1]} x {each[0]}" for each in (made.shape, shape)]
            raise ValueError(
                f"{name} has {sizes[1]} pixels, and {self._first} has {sizes[0]}: set "
                "config.prepare.size to the size that all images shall have, such as "
                "--config.prepare.size=64"
            )

    def _check_room(self, size: int) -> None:
        """Raises ValueError if the disk has no room for all images of this size in bytes."""
        free = shutil.disk_usage(self._folder).free
        if free < self._n * size:
            raise ValueError(
                f"{self._n:,} images of {size:,} bytes need {self._n * size / 2**30:,.1f} GiB, and "
                f"the disk of {self._folder.parent} has {free / 2**30:,.1f} GiB left: make room, "
                "choose another --output, or a smaller config.prepare.size"
            )


def split_of(digest: bytes, test_fraction: float) -> str:
    """The split of a file by the digest of its bytes."""
    return "test" if int.from_bytes(digest[:8], "big") < test_fraction * 2**64 else "train"


def _check_counts(made: Made, listing: Listing) -> None:
    """Raises ValueError for a split with fewer than LEAST images."""
    counts = {split: len(labels) for split, labels in made.labels.items()}
    if min(counts.values()) >= LEAST:
        return
    why = [f"{len(names):,} {reason}" for reason, names in made.left_out.items()]
    left_out = f"; left out: {', '.join(why)}" if why else ""
    raise ValueError(
        f"{listing.root} gives {counts['train']} images to train on and {counts['test']} to test "
        f"on, and at least {LEAST} of each are needed: give more, or change "
        f"config.data.test_fraction{left_out}"
    )
