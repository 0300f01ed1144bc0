"""Masks of edits: weights from 0, where an image is known, to 1, where results are made."""

import difflib
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from experiments.runs import files

Weight = Float[np.ndarray, "*n height width 1"]
CUT = 3.0  # standard deviations to which a blurred edge reaches


def _left(height: int, width: int) -> Bool[np.ndarray, "height width"]:
    return np.tile(np.arange(width) < width // 2, (height, 1))


def _around_centre(height: int, width: int) -> Bool[np.ndarray, "height width"]:
    inner = (np.abs(np.arange(side) - (side - 1) / 2) < side / 4 for side in (height, width))
    return ~np.outer(*inner)


MASKS: dict[str, Callable[[int, int], Bool[np.ndarray, "height width"]]] = {
    "left": _left,
    "centre": _around_centre,
}
"""The known part, True, of images of (height, width) pixels."""


def weight(known: Bool[np.ndarray, "height width"], grow: int = 0, blur: float = 0.0) -> Weight:
    """The weight of results in an image, [H, W, 1].

    Args:
        known: True where the image is known.
        grow: pixels by which the rest grows.
        blur: standard deviation of its edge, which lies in the part that is known otherwise.
    """
    from scipy import ndimage  # slow to import

    made: Any = ~np.asarray(known, bool)
    if grow:
        made = np.asarray(ndimage.distance_transform_edt(~made)) <= grow
    soft = made.astype(np.float32)
    if blur:  # a plain blur would let the known part shine through within the mask
        away = np.asarray(ndimage.distance_transform_edt(~made))
        soft = np.where(away <= CUT * blur, np.exp(-0.5 * (away / blur) ** 2), 0)
    return soft.astype(np.float32)[..., None]


def check_known(mask: str) -> None:
    """Raises ValueError for a mask that is neither a name nor a file."""
    if mask not in MASKS and not files.expand(mask).is_file():
        near = difflib.get_close_matches(mask, MASKS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"config.edit.mask {mask!r} is unknown: {hint}choose one of "
            f"{', '.join(sorted(MASKS))}, or an image file that exists"
        )


def check(weights: Weight, what: str, where: str = "where the image stays") -> None:
    """Raises ValueError for a mask with nothing to make, or nothing known.

    Args:
        weights: of results.
        what: the name of the mask.
        where: the part that must be known.
    """
    made = weights > 0
    if not made.any():
        raise ValueError(
            f"{what} leaves nothing to make: it must be white (in a file) or False (in an array) "
            "where results are made"
        )
    if made.all():
        raise ValueError(
            f"{what} leaves nothing known, with its growth and blur (mask_grow, mask_blur): it "
            f"must be black (in a file) or True (in an array) {where}; or take 'variations'"
        )


def as_weights(known: Bool[np.ndarray, "n h w"], grow: int, blur: float) -> Weight:
    """Weights [N, H, W, 1] of masks, True where images are known.

    Raises:
        ValueError: a mask that covers all or nothing.
    """
    weights = np.stack([weight(each, grow, blur) for each in known])
    for each in weights:
        check(each, "config.edit.mask")
    return weights


def smaller(weights: Weight, sides: tuple[int, ...]) -> Weight:
    """Weights of latents: 1 where any of their pixels is made.

    Raises:
        ValueError: all latents of an image are made.
    """
    n, *shape, _ = weights.shape
    high, wide = (pixels // side for pixels, side in zip(shape, sides, strict=True))
    blocks = weights.reshape(n, sides[0], high, sides[1], wide)
    made = (blocks.max(axis=(2, 4)) > 0).astype(np.float32)[..., None]
    what = f"config.edit.mask, in latents that cover {high} x {wide} pixels each,"
    where = "in all pixels of at least one of these blocks (with only_masked, enlarge padding)"
    for each in made:
        check(each, what, where)
    return made


def filled(x: Float[np.ndarray, "n h w c"], weights: Weight) -> Float[np.ndarray, "n h w c"]:
    """Images whose made part is filled with colours from around it, smoothly."""
    from scipy import ndimage  # slow to import

    result = np.array(x)
    for k, made in enumerate(np.broadcast_to(weights, (len(x), *weights.shape[1:]))[..., 0] > 0):
        nearest: Any = ndimage.distance_transform_edt(made, return_indices=True)
        away, places = nearest
        spread = x[k][tuple(places)]
        std = max(float(away.max()) / 2, 0.5)
        smooth = ndimage.gaussian_filter(spread, (std, std, 0), mode="nearest")
        result[k] = np.where(made[..., None], smooth, x[k])
    return result
