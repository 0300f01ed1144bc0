"""Non-leaking augmentation: the network is conditioned on the transformation of each image.

It is the geometric part of StyleGAN2-ADA's pipeline (Karras et al. 2020, arXiv 2006.06676, Appendix
B) with EDM's labels (Karras et al. 2022, arXiv 2206.00364, Appendix F.2). Labels of zero mean no
transformation: samples are drawn with these.
"""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from sde_lib.batch import sample_keys

N_LABELS = 9
SCALE_STD = 0.2  # standard deviation of the base 2 logarithms of both scalings
SHIFT_STD = 0.125  # standard deviation of shifts, in sizes of the image
# The 12 taps of the low-pass filter of the wavelet sym6 (Daubechies 1992), normalised to sum 1.
_SYM6 = np.array(
    [
        0.015404109327027373,
        0.0034907120842174702,
        -0.11799011114819057,
        -0.048311742585633,
        0.4910559419267466,
        0.787641141030194,
        0.3379294217276218,
        -0.07263752278646252,
        -0.021060292512300564,
        0.04472490177066578,
        0.0017677118642428036,
        -0.007800708325034148,
    ]
) / np.sqrt(2)
_DELAY = float(np.arange(len(_SYM6)) @ _SYM6)

Image = Float[Array, "height width channels"]


class Transform(NamedTuple):
    """Transformations of an image, applied in this order; all are scalars, and 0 changes nothing.

    Attributes:
        flip_x: 1 flips left and right.
        flip_y: 1 flips top and bottom.
        scale: the image is enlarged by 2^(0.2 scale).
        angle: the image is rotated counter-clockwise by this angle in radians.
        stretch: it is stretched by 2^(0.2 stretch) along `direction`, and shrunk as much across it.
        direction: an angle in radians, counter-clockwise from the right.
        shift_x: the image is moved right by 0.125 shift_x widths.
        shift_y: the image is moved down by 0.125 shift_y heights.
    """

    flip_x: Array
    flip_y: Array
    scale: Array
    angle: Array
    stretch: Array
    direction: Array
    shift_x: Array
    shift_y: Array


def augment(
    key: PRNGKeyArray,
    x: Float[Array, "batch height width channels"],
    p: float | Array,
    first_index: int | Array = 0,
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch 9"]]:
    """Images that are transformed at random, and the labels of their transformations.

    Args:
        key: randomness; the transformation of sample i depends on key and i alone.
        x: images of two pixels or more a side.
        p: probability of each kind of transformation, except for flips: top-bottom flips have
            probability p / 2, and left-right flips 1/2.
        first_index: index of the first image in the stream `key`.
    """
    keys = sample_keys(key, x.shape[0], first_index)
    transforms = jax.vmap(partial(draw, p=p))(keys)
    return jax.vmap(transformed)(x, transforms), jax.vmap(labels)(transforms)


def draw(key: PRNGKeyArray, p: float | Array) -> Transform:
    """A random transformation of one image."""
    keys = jax.random.split(key, 4)
    flips, scales, turns, stretches, shifts = jax.random.bernoulli(keys[0], p, (5,))
    flip_x, flip_y, along_axis = jax.random.bernoulli(keys[1], 0.5, (3,))
    angle, direction = jax.random.uniform(keys[2], (2,), minval=-jnp.pi, maxval=jnp.pi)
    scale, stretch, shift_x, shift_y = jax.random.normal(keys[3], (4,))
    return Transform(
        flip_x=jnp.where(flip_x, 1.0, 0.0),
        flip_y=jnp.where(flips & flip_y, 1.0, 0.0),
        scale=jnp.where(scales, scale, 0.0),
        angle=jnp.where(turns, angle, 0.0),
        stretch=jnp.where(stretches, stretch, 0.0),
        direction=jnp.where(along_axis, 0.0, direction),
        shift_x=jnp.where(shifts, shift_x, 0.0),
        shift_y=jnp.where(shifts, shift_y, 0.0),
    )


def labels(transform: Transform) -> Float[Array, " 9"]:
    """EDM's labels of a transformation, in the published order."""
    flip_x, flip_y, scale, angle, stretch, direction, shift_x, shift_y = transform
    turn = jnp.cos(angle) - 1, jnp.sin(angle)
    along = stretch * jnp.cos(direction), stretch * jnp.sin(direction)
    return jnp.stack([flip_x, flip_y, scale, *turn, *along, shift_x, shift_y])


def transformed(image: Image, transform: Transform) -> Image:
    """The transformed image. Beyond its edges the image is continued by reflection.

    Flips are exact. For the other transformations the image is upsampled twice by the filter sym6,
    sampled bilinearly, and downsampled by the same filter. Without a transformation that is the
    identity.
    """
    image = jnp.where(transform.flip_x > 0, image[:, ::-1], image)
    image = jnp.where(transform.flip_y > 0, image[::-1], image)
    (up_y, down_y), (up_x, down_x) = (_filters(n) for n in image.shape[:2])
    product = partial(jnp.einsum, precision="highest")
    fine = product("yh,hwc,xw->yxc", up_y, image, up_x)
    y, x = _origins(transform, image.shape, (down_y.shape[1], down_x.shape[1]))
    return product("hy,yxc,wx->hwc", down_y, _bilinear(fine, y, x), down_x)


@cache
def _filters(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices that upsample a row of n pixels twice, and downsample it.

    Fine pixel k is at (k - _DELAY) / 2, the centre of the filter. The first matrix gives fine
    pixels 0, ..., 4 (n - 1) - 1, one period of the reflected row. The second takes fine pixels 0,
    ..., 2 n + 9.
    """
    period = 2 * (n - 1)
    mirrored = np.abs((np.arange(period) + n - 1) % period - (n - 1))  # 0, ..., n - 1, ..., 1
    up, down = np.zeros((2 * period, n)), np.zeros((n, 2 * n + len(_SYM6) - 2))
    for tap, weight in enumerate(_SYM6):
        np.add.at(up, ((2 * np.arange(period) + tap) % (2 * period), mirrored), 2 * weight)
        down[np.arange(n), 2 * np.arange(n) + tap] = weight
    return up.astype(np.float32), down.astype(np.float32)


def _origins(
    transform: Transform, shape: tuple[int, ...], fine_shape: tuple[int, int]
) -> tuple[Array, Array]:
    """The points (y, x) of the fine image, in its pixels, that the result's fine pixels show."""
    centre_y, centre_x = (0.5 * (n - 1) for n in shape[:2])
    y, x = (0.5 * (jnp.arange(n) - _DELAY) for n in fine_shape)
    x = x - centre_x - SHIFT_STD * shape[1] * transform.shift_x
    y = y[:, None] - centre_y - SHIFT_STD * shape[0] * transform.shift_y
    stretched = 2 ** (SCALE_STD * transform.stretch)
    x, y = _turn(x, y, -transform.direction)
    x, y = _turn(x / stretched, y * stretched, transform.direction - transform.angle)
    enlarged = 2 ** (SCALE_STD * transform.scale)
    x, y = x / enlarged + centre_x, y / enlarged + centre_y
    return 2 * y + _DELAY, 2 * x + _DELAY


def _turn(x: Array, y: Array, angle: Array) -> tuple[Array, Array]:
    """Points rotated counter-clockwise on the screen, where y points down."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _bilinear(image: Image, y: Array, x: Array) -> Image:
    """The values of the periodic image at the points (y, x), by bilinear interpolation."""
    rows, columns, channels = image.shape
    pixels = image.reshape(-1, channels)
    y0, x0 = jnp.floor(y), jnp.floor(x)
    y_part, x_part = (y - y0)[..., None], (x - x0)[..., None]
    y0, x0 = y0.astype(int), x0.astype(int)

    def at(dy: int, dx: int) -> Array:
        return pixels[(y0 + dy) % rows * columns + (x0 + dx) % columns]

    top = (1 - x_part) * at(0, 0) + x_part * at(0, 1)
    bottom = (1 - x_part) * at(1, 0) + x_part * at(1, 1)
    return (1 - y_part) * top + y_part * bottom
