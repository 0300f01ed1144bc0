"""The report on a prepared data set, and a picture of some of its images."""

import math
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.dataset import SPLITS
from experiments.data.inspection import rules
from experiments.data.prepare.make import Made
from experiments.runs import files, pictures

LISTED = 1000  # files for each reason in report.json
NAMED = 3  # files for each reason in the printed report
CLASSES = 12  # classes that are printed
SHOWN, COLUMNS = 64, 8  # images in the picture
SIDE = 128  # pixels of an image in it, at most
CONFIGS = {"cifar10": {16, 32, 64, 128}, "celebahq": {256, 512}}  # networks that fit these sides
OTHERWISE = "cifar10"  # whose network gets other levels for other sizes
ATTENTION = 16  # pixels


def facts(made: Made, notes: tuple[str, ...]) -> dict[str, Any]:
    """The report as plain values."""
    by_split = {split: Counter(labels) for split, labels in made.labels.items()}
    areas = sorted(made.sizes.elements(), key=lambda size: size[0] * size[1])
    return {
        "images": {split: len(labels) for split, labels in made.labels.items()},
        "shape": made.shape,
        "sizes": {
            "smallest": areas[0],
            "median": areas[len(areas) // 2],
            "largest": areas[-1],
            "different": len(made.sizes),
        },
        "classes": [
            {"label": k, "name": name, **{split: by_split[split][name] for split in SPLITS}}
            for k, name in enumerate(made.classes)
        ],
        "changed": dict(made.traits.most_common()),
        "without_caption": made.no_caption,
        "left_out": {
            reason: {"count": len(names), "files": names[:LISTED]}
            for reason, names in made.left_out.items()
        },
        "notes": notes,
    }


def lines(about: dict[str, Any], captioned: bool) -> list[str]:
    """The report in lines."""
    counts, sizes, classes = about["images"], about["sizes"], about["classes"]
    shape = " x ".join(map(str, about["shape"]))
    made = [f"{counts['train']:,} images to train on and {counts['test']:,} to test on, {shape}"]
    ends = [f"{width} x {height}" for width, height in (sizes["smallest"], sizes["largest"])]
    several = f" to {ends[1]}, {sizes['different']:,} sizes" if sizes["different"] > 1 else ""
    made.append(f"size of the files: {ends[0]}{several}")
    made += [f"{trait}: {count:,} images" for trait, count in about["changed"].items()]
    if classes:
        made += _class_lines(classes)
    if captioned:
        missing = about["without_caption"]
        made.append(f"captions: {missing:,} images have none, which is the empty text")
    for reason, each in about["left_out"].items():
        named = ", ".join(each["files"][:NAMED]) + " ..." * (each["count"] > NAMED)
        made.append(f"left out: {each['count']:,} {reason}: {named}")
    return [line.encode(errors="backslashreplace").decode() for line in (*made, *about["notes"])]


def _class_lines(classes: list[dict[str, Any]]) -> list[str]:
    """The number of images of each class, and their skew."""
    sizes = [each["train"] for each in classes]
    listed = [f"{each['label']} ({each['name']}) {each['train']:,}" for each in classes[:CLASSES]]
    more = f" and {len(classes) - CLASSES} more" if len(classes) > CLASSES else ""
    made = [f"{len(classes)} classes, images to train on: {', '.join(listed)}{more}"]
    if min(sizes) == 0:
        empty = [each["name"] for each in classes if not each["train"]]
        made.append(f"classes without images to train on: {', '.join(empty[:CLASSES])}")
    else:
        made.append(f"the largest class has {max(sizes) / min(sizes):.1f} times the smallest one's")
    return made


def write(output: Path, about: dict[str, Any]) -> Path:
    """Writes report.json, and the picture of some images; returns the path of that."""
    files.write_json(output / "report.json", about)
    images = np.load(output / "train.npy", mmap_mode="r")
    rows = np.random.RandomState(0).permutation(len(images))[:SHOWN]
    shown = np.stack([_small(images[row]) for row in np.sort(rows)])
    told = {"Software": "score-sde-jax", "Description": "Images of a data set, not generated"}
    return pictures.save_grid(output / "samples.png", shown, COLUMNS, told)


def _small(image: np.ndarray) -> np.ndarray:
    """The image with at most SIDE pixels a side."""
    picture = pictures.to_picture(image)
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture).reshape(picture.height, picture.width, -1)


def next_command(output: Path, shape: tuple[int, int, int], n_classes: int) -> str:
    """The command that trains on the data set."""
    height, width, channels = shape
    square = (height,) if height == width else ()
    config = next((name for name, sides in CONFIGS.items() if {*square} & sides), None)
    fields: dict[str, Any] = {"data.dataset": "prepared", "data.path": output}
    if square:
        fields |= {"data.image_size": height, "data.num_channels": channels}
    else:
        fields["data.shape"] = shape
    fields |= {"data.num_classes": n_classes} | ({} if config else _network(shape))
    flags = [f"--config=configs/{config or OTHERWISE}.py", f"--workdir=runs/{output.name}"]
    flags += [f"--config.{name}={_plain(value)}" for name, value in fields.items()]
    return shlex.join(["python", "-m", "experiments.main", *flags])


def _network(shape: tuple[int, int, int]) -> dict[str, Any]:
    """The levels of a U-Net for images of this shape, with attention at about 16 pixels."""
    n = int(rules.halvings(shape).value)
    heights = [shape[0] >> level for level in range(n + 1)]
    nearest = min(heights, key=lambda height: abs(math.log(height / ATTENTION)))
    return {"model.ch_mult": (1, *(2,) * n), "model.attn_resolutions": (nearest,)}


def _plain(value: Any) -> str:
    """A value of a flag, without spaces in tuples."""
    return repr(value).replace(" ", "") if isinstance(value, tuple) else str(value)
