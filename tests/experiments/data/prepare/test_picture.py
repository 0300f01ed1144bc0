import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from experiments.data.image_files import UnfitError
from experiments.data.prepare.picture import CROPS, FILTERS, Transform


def encoded(image, form="PNG", **options):
    with io.BytesIO() as file:
        image.save(file, form, **options)
        return file.getvalue()


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def test_images_without_a_size_keep_their_pixels():
    pixels = noise(7, 9)
    made = Transform()(encoded(Image.fromarray(pixels)))
    np.testing.assert_array_equal(made.pixels, pixels)
    assert (made.size, made.traits) == ((9, 7), ())
    assert made.pixels.flags.c_contiguous


@pytest.mark.parametrize("name", FILTERS)
def test_a_centred_square_is_cut_and_resized_by_pillow_s_filter(name):
    image = Image.fromarray(noise(20, 33))
    made = Transform((8,), filter=name)(encoded(image))
    cut = image.crop((6, 0, 26, 20)).resize((8, 8), FILTERS[name])
    np.testing.assert_array_equal(made.pixels, np.asarray(cut))


@pytest.mark.parametrize(
    ("size", "of_file", "box"),
    [
        ((8, 16), (40, 40), (0, 10, 40, 30)),
        ((16, 8), (40, 40), (10, 0, 30, 40)),
        ((8, 8), (10, 41), (0, 15, 10, 25)),
    ],
)
def test_the_largest_part_of_the_size_s_aspect_is_cut(size, of_file, box):
    """The sizes of files are (width, height)."""
    image = Image.fromarray(noise(of_file[1], of_file[0]))
    made = Transform(size)(encoded(image))
    expected = image.crop(box).resize(size[::-1], Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(made.pixels, np.asarray(expected))


@pytest.mark.parametrize(("crop", "size"), [("wide", (6, 10)), ("tall", (10, 6))])
def test_wide_and_tall_images_lie_on_a_black_square(crop, size):
    image = Image.fromarray(noise(60, 60) | 1)
    transform = Transform(size, crop)
    made = transform(encoded(image)).pixels
    assert made.shape == transform.shape == (10, 10, 3)
    turned = made if crop == "wide" else made.swapaxes(0, 1)
    assert not turned[:2].any()
    assert not turned[8:].any()
    inner = Transform(size)(encoded(image)).pixels
    np.testing.assert_array_equal(turned[2:8], inner if crop == "wide" else inner.swapaxes(0, 1))


def test_without_a_crop_the_whole_image_is_squeezed():
    image = Image.fromarray(noise(20, 33))
    made = Transform((8,), "none")(encoded(image))
    expected = image.resize((8, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(made.pixels, np.asarray(expected))


def test_small_images_are_enlarged_and_counted():
    made = Transform((8,))(encoded(Image.fromarray(noise(5, 12))))
    assert made.pixels.shape == (8, 8, 3)
    assert made.traits == ("enlarged",)


def test_colours_of_sixteen_bits_are_counted():
    """A PNG file of one pixel, which Pillow cannot write."""

    def chunk(kind, content):
        sum_ = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + sum_

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">HHH", 0x1234, 0xFF00, 0x0080)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    made = Transform()(file + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b""))
    assert made.pixels.tolist() == [[[0x12, 0xFF, 0x00]]]
    assert made.traits == ("more than 8 bits, of which the upper 8 are kept",)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_images_are_upright(orientation, form):
    image, exif = Image.fromarray(noise(6, 9)), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    made = Transform()(encoded(image, form, exif=exif, **options))
    assert "turned upright" in made.traits
    image.getexif()[ExifTags.Base.Orientation] = orientation
    np.testing.assert_array_equal(made.pixels, np.asarray(ImageOps.exif_transpose(image)))
    assert made.size == made.pixels.shape[1::-1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "RGBA", "PA"])
def test_every_kind_of_pixels_becomes_grey_or_rgb(mode, channels):
    """Uniform pixels of a known grey, opaque ones where there is transparency."""
    level = 255 if mode == "1" else 119
    image = Image.new("L", (6, 5), level).convert("RGBA" if mode == "PA" else mode)
    image = image.convert("PA") if mode == "PA" else image
    form = "TIFF" if mode in ("CMYK", "YCbCr", "PA") else "PNG"
    made = Transform(channels=channels)(encoded(image, form))
    assert made.pixels.shape == (5, 6, channels)
    np.testing.assert_allclose(made.pixels, level, atol=1)


def test_sixteen_bits_keep_the_upper_ones():
    values = (np.arange(36).reshape(6, 6) * 1700).astype(np.uint16)
    for channels in (1, 3):
        made = Transform(channels=channels)(encoded(Image.fromarray(values)))
        expected = np.repeat(np.rint(values[..., None] / 257), channels, -1)
        np.testing.assert_array_equal(made.pixels, expected)
        assert made.traits == ("more than 8 bits, of which the upper 8 are kept",)
    small = Transform((3,), channels=1)(encoded(Image.fromarray(values)))
    assert small.pixels.shape == (3, 3, 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("background", "grey"), [("white", 255), ("#404040", 64)])
def test_transparent_pixels_show_the_background(mode, background, grey):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((0, 0), (10, 10, 10, 255))
    image = image.convert("LA") if mode == "LA" else image
    options = {}
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([0, 0, 0, 10, 10, 10])
        image.putpixel((0, 0), 1)
        options = {"transparency": 0}
    made = Transform(background=background)(encoded(image, **options))
    assert made.pixels[0, 0].tolist() == [10, 10, 10]
    assert (made.pixels.reshape(-1, 3)[1:] == grey).all()
    assert "transparent, put on the background" in made.traits


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_is_taken(form):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    file = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    made = Transform()(file)
    assert made.pixels[2, 2].tolist() == [255, 0, 0]
    assert made.traits[0] == "several frames, of which the first is taken"


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_refused(dtype):
    image = Image.fromarray(np.ones((4, 4), dtype) * 7)
    with pytest.raises(UnfitError, match="black and white are not known"):
        Transform()(encoded(image, "TIFF"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "middle"}, "config.prepare.crop 'middle' is unknown"),
        ({"filter": "nearest"}, "config.prepare.filter 'nearest' is unknown"),
        ({"size": (0,)}, r"config.prepare.size is \(0,\)"),
        ({"size": (4, 4, 3)}, r"config.prepare.size is \(4, 4, 3\)"),
        ({"size": (4.5,)}, "config.prepare.size"),
        ({"channels": 4}, "config.prepare.channels is 4"),
        ({"background": "wite"}, "config.prepare.background is 'wite'"),
        ({"crop": "wide", "size": (8, 8)}, "width above its height"),
        ({"crop": "tall", "size": (8, 9)}, "height above its width"),
        ({"crop": "wide"}, "width above its height"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        Transform(**options)
    assert "\n" not in str(error.value)
    assert len(CROPS) == 4
