import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.data.image_files import UnfitError, decode, examine

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def encoded(image, kind="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG file of 16-bit RGB, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff", "webp", "jpeg"])
def test_images_are_turned_as_exif_says(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} | ({"lossless": True} if kind == "webp" else {})
    image = Image.fromarray(GREY if kind != "webp" else np.stack([GREY] * 3, axis=-1))
    stored = np.asarray(image)
    shown = {  # the corner of the scene at row 0 and column 0, by the standard's table
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored[::-1].swapaxes(0, 1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: stored[:, ::-1].swapaxes(0, 1),
    }[orientation]
    shape = (*shown.shape[:2], 3 if kind == "webp" else 1)
    file = encoded(image, kind, **options)
    examine(file, shape, False)
    atol = 12 if kind == "jpeg" else 0
    np.testing.assert_allclose(decode(file, shape), shown.reshape(shape).astype(float), atol=atol)


@pytest.mark.parametrize("kind", ["png", "gif", "tiff", "webp"])
def test_the_first_of_several_frames_is_taken_only_if_asked(kind):
    frames = [Image.fromarray(np.full((3, 4, 3), level, np.uint8)) for level in (0, 100, 200)]
    mode, channels = ("L", 1) if kind == "gif" else ("RGB", 3)
    frames = [frame.convert(mode) for frame in frames]
    file = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(UnfitError, match=r"has 3 pages or frames: set config\.data\.first_frame"):
        examine(file, (3, 4, channels), False)
    if kind == "gif":  # colours of a palette are refused as in a single image
        with pytest.raises(UnfitError, match=r"mode P, .*; save image\.convert\('L'\)"):
            examine(file, (3, 4, 1), True)
    else:
        examine(file, (3, 4, channels), True)
        assert decode(file, (3, 4, channels)).max() == 0


def test_a_photograph_with_a_preview_is_one_image():
    photo, preview = (Image.fromarray(np.full((3, 4, 3), level, np.uint8)) for level in (9, 200))
    file = encoded(photo, "mpo", save_all=True, append_images=[preview])
    examine(file, (3, 4, 3), False)
    assert decode(file, (3, 4, 3)).max() < 20


def test_colours_of_16_bits_are_not_cut_in_silence(tmp_path):
    pixels = np.arange(36).reshape(3, 4, 3) * 1820
    ppm = b"P6 4 3 65535\n" + pixels.astype(">u2").tobytes()
    for name, file in (("a.png", deep_png(pixels)), ("a.ppm", ppm)):
        with pytest.raises(UnfitError, match=r"colours have 16 bits: .* Image\.open\(file\)\.save"):
            examine(file, (3, 4, 3), False)
        (tmp_path / name).write_bytes(file)
        Image.open(tmp_path / name).save(tmp_path / name)  # as the error says
        examine((tmp_path / name).read_bytes(), (3, 4, 3), False)
        assert abs(decode((tmp_path / name).read_bytes(), (3, 4, 3)) - pixels / 257).max() <= 1


def test_floats_and_wide_integers_are_refused_with_their_range():
    for pixels, mode, kind in ((GREY / 220, "F", "tiff"), (GREY.astype(np.int32), "I", "tiff")):
        file = encoded(
            Image.fromarray(pixels.astype(np.float32 if mode == "F" else np.int32)), kind
        )
        with pytest.raises(UnfitError, match=f"mode {mode}, .* from 0 to {pixels.max():g}: .*clip"):
            examine(file, (3, 4, 1), False)


def test_transparent_pixels_are_refused_and_unused_transparency_is_not():
    image = Image.fromarray(GREY)
    examine(encoded(image, transparency=1), (3, 4, 1), False)
    with pytest.raises(UnfitError, match="some pixels are transparent: paste"):
        examine(encoded(image, transparency=20), (3, 4, 1), False)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UnfitError, match="more than 40 pixels: images are not resized here"):
        decode(encoded(Image.new("L", (8, 8))), (8, 8, 1))
