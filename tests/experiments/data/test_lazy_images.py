import io

import numpy as np
import pytest
from PIL import Image

from experiments.data.lazy_images import LazyImages, check_channels


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, "png")
    return buffer.getvalue()


def lazy(files: list[bytes], shape: tuple[int, int, int]) -> LazyImages:
    return LazyImages("album", np.arange(len(files)), lambda i: io.BytesIO(files[i]), shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_lazy_images_are_read_like_an_array(channels):
    array = np.random.RandomState(0).randint(256, size=(20, 5, 5, channels)).astype(np.uint8)
    images = lazy([png(image.squeeze()) for image in array], (5, 5, channels))
    images.check()
    assert (images.shape, images.dtype, len(images)) == (array.shape, array.dtype, len(array))
    for index in (np.array([7, 0, 7]), slice(3, 9), slice(18, 100), np.array([], int)):
        np.testing.assert_array_equal(images[index], array[index])


RGB = np.zeros((5, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (png(RGB[:4]), r"album: 2 .* 5 x 4 pixels, config\.data\.image_size is 5"),
        (png(RGB, "L"), r"album: 2 .* mode L, .* means RGB: .*; save image\.convert\('RGB'\)"),
        (png(RGB, "RGBA"), "mode RGBA.* paste the transparent image on a background"),
        (png(RGB, "P"), "mode P"),
        (png(RGB, "I;16"), "mode I;16"),
        (b"text", "album: 2 cannot be used"),
    ],
)
def test_the_first_file_of_another_kind_is_named(file, message):
    images = lazy([png(RGB), png(RGB), file, file], (5, 5, 3))
    with pytest.raises(ValueError, match=message):
        images.check()


def test_a_file_cut_short_is_named_when_it_is_decoded():
    noise = np.random.RandomState(0).randint(256, size=RGB.shape).astype(np.uint8)
    images = lazy([png(RGB), png(noise)[:-40]], (5, 5, 3))
    images.check()
    with pytest.raises(ValueError, match="album: 1 cannot be used"):
        images[:]


def test_pixels_have_one_or_three_channels():
    assert check_channels((32, 32, 3)) == (32, 32, 3)
    with pytest.raises(ValueError, match=r"num_channels is 2: image files have 1 \(grey\) or 3"):
        check_channels((32, 32, 2))
