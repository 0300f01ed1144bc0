"""Random crops of the photographs that scikit-learn and scikit-image include."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.data.dataset import Dataset, DataSpec
from experiments.data.sources.optional import require

SCIKIT_IMAGE = ("astronaut", "chelsea", "coffee", "rocket")
SCALES = (1.0, 0.71, 0.5, 0.35)  # of the photographs' sides
N_CROPS = 8192
N_TEST_CROPS = 128
Photograph = UInt8[np.ndarray, "height width 3"]


def load(spec: DataSpec) -> Dataset:
    """Crops of spec.shape = (H, W, 3), whose classes are the photographs.

    Test crops are from the right end of each photograph, a share spec.test_fraction of its width,
    and training crops from the rest. Both have the same scales: those at which a crop fits into
    both parts. The crops are the same at each load.

    Raises:
        ValueError: a shape for which there is no crop, or no scikit-image.
    """
    if len(spec.shape) != 3 or spec.shape[2] != 3:
        raise ValueError(
            f"config.data.shape is {spec.shape}, but crops of photographs are RGB: (H, W, 3)"
        )
    photographs = _included_in_scikit_learn()
    if spec.name == "photographs":
        photographs |= _included_in_scikit_image()
    views = [_views(pixels, spec.shape, spec.test_fraction) for pixels in photographs.values()]
    few = [name for name, found in zip(photographs, views, strict=True) if not found]
    if few:
        height, width = photographs[few[0]].shape[:2]
        raise ValueError(
            f"config.data.shape is {spec.shape}, but {few[0]!r} has {height} x {width} pixels, of "
            f"which the test crops have a share config.data.test_fraction = {spec.test_fraction} "
            "at the right end: make the crops smaller, or that share larger (up to 0.5)"
        )
    random = np.random.RandomState(0)
    about: dict[str, Any] = {}
    for part, (split, n) in enumerate((("train", N_CROPS), ("test", N_TEST_CROPS))):
        labels = np.arange(n, dtype=np.int32) % len(views)
        crops = [_crop(random, [pair[part] for pair in views[k]], spec.shape) for k in labels]
        about |= {split: np.stack(crops), f"{split}_labels": labels}
    about |= {"test_share": spec.test_fraction, "own_split": True}
    return Dataset(**about, levels=256, classes=tuple(photographs))


def _views(
    pixels: Photograph, shape: tuple[int, ...], share: float
) -> list[tuple[Photograph, Photograph]]:
    """The training and the test part of a photograph, at each scale at which crops fit in."""
    border = round(pixels.shape[1] * (1 - share))
    found = []
    for scale in SCALES:
        pair = [_resized(part, scale) for part in (pixels[:, :border], pixels[:, border:])]
        if all(part.shape[0] >= shape[0] and part.shape[1] >= shape[1] for part in pair):
            found.append(tuple(pair))
    return found


def _resized(pixels: Photograph, scale: float) -> Photograph:
    height, width = (max(1, round(scale * side)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _crop(
    random: np.random.RandomState, views: Sequence[Photograph], shape: tuple[int, ...]
) -> Photograph:
    view = views[random.randint(len(views))]
    row, column = (random.randint(view.shape[i] - shape[i] + 1) for i in (0, 1))
    return view[row : row + shape[0], column : column + shape[1]]


def _included_in_scikit_learn() -> dict[str, Photograph]:
    from sklearn.datasets import load_sample_image  # takes 0.9 s, so only these data import it

    return {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}


def _included_in_scikit_image() -> dict[str, Photograph]:
    data = require("skimage.data", "scikit-image")
    try:
        return {name: getattr(data, name)() for name in SCIKIT_IMAGE}
    except (OSError, ModuleNotFoundError) as error:
        raise ValueError(
            f"this scikit-image does not include its photographs ({error}): install its wheel by "
            "pip install --force-reinstall scikit-image, or choose "
            "config.data.dataset='sample_images'"
        ) from error
