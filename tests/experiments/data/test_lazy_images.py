import io
import re

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


NOISE = np.random.RandomState(0).randint(256, size=RGB.shape).astype(np.uint8)


def test_a_file_cut_short_is_named_before_the_start_and_when_it_is_decoded():
    files = [png(RGB), png(NOISE)[:-40]]
    images = lazy(files, (5, 5, 3))
    message = r"album: 1 cannot be used: image file is truncated; .*max_unreadable=0\.5 to leave"
    with pytest.raises(ValueError, match=message):
        images.check()
    with pytest.raises(ValueError, match="album: 1 cannot be used"):
        images[:]
    assert images.check(max_unreadable=0.5) == {1: "1 (image file is truncated)"}
    broken = lazy([*files, b""], (5, 5, 3))
    with pytest.raises(ValueError, match="the first of 2 unreadable files among 3"):
        broken.check(max_unreadable=0.5)
    with pytest.raises(ValueError, match="among 2"):
        lazy([b"", b""], (5, 5, 3)).check(max_unreadable=0.9)


def test_a_read_that_fails_is_tried_again(monkeypatch):
    monkeypatch.setattr("experiments.data.lazy_images.PAUSES", (0, 0))
    left = {"system": 2, "short": 1}

    def flaky(key):
        if left["system"]:
            left["system"] -= 1
            raise OSError(5, "Input/output error")
        if left["short"]:
            left["short"] -= 1
            return io.BytesIO(png(NOISE)[:-40])
        return io.BytesIO(png(NOISE))

    images = LazyImages("album", np.arange(1), flaky, (5, 5, 3))
    left["short"] = 0
    np.testing.assert_array_equal(images[:], NOISE[None])
    left.update(system=0, short=1)
    assert images.check() == {}
    left.update(system=3)
    with pytest.raises(ValueError, match=r"album: 0 cannot be used: \[Errno 5\] Input/output"):
        images[:]


def test_good_files_are_remembered_until_they_change(tmp_path):
    opened, stamps = [], {0: "a", 1: "b"}

    def open_file(key):
        opened.append(int(key))
        return io.BytesIO(png(NOISE) if key < 2 else b"text")

    def check(n=2, shape=RGB.shape, **options):
        opened.clear()
        images = LazyImages("album", np.arange(n), open_file, shape, lambda key: stamps.get(key))
        images.check(tmp_path, **options)
        return sorted(set(opened))

    assert check() == [0, 1]
    assert check() == []
    stamps[1] = "c"
    assert check() == [1]
    assert check(first_frame=True) == [0, 1]
    assert check(3, max_unreadable=0.5) == [2]
    assert check(3, max_unreadable=0.5) == [2]  # unreadable files are looked at each time
    with pytest.raises(ValueError, match="5 x 5 pixels"):
        check(shape=(4, 4, 3))


@pytest.mark.thorough
def test_a_file_that_is_gone_is_named(tmp_path):
    def nowhere(key):
        return str((tmp_path / "none.png").stat())

    def gone(key):
        return (tmp_path / "none.png").open("rb")

    images = LazyImages("album", np.arange(2), gone, RGB.shape, nowhere)
    with pytest.raises(ValueError, match=r"album: 0 cannot be used: \[Errno 2\] No such file"):
        images.check(tmp_path)


def test_a_cache_that_cannot_be_written_is_only_warned_of(tmp_path, caplog):
    (tmp_path / "checked").write_text("a file in its place")
    images = LazyImages(
        "album", np.arange(1), lambda key: io.BytesIO(png(RGB)), RGB.shape, lambda key: ""
    )
    images.check(tmp_path)
    assert "will be checked again at the next start" in caplog.text


def test_the_range_of_all_files_with_more_than_8_bits_is_shown():
    deep = [np.full((5, 5), level, np.uint16) for level in (9, 300, 4000)]
    images = lazy([png(deep[1]), png(deep[0]), png(deep[2])], (5, 5, 1))
    with pytest.raises(
        ValueError, match=r"0 .* 2 more files, have .* I;16.* from 9 to 4000"
    ) as error:
        images.check()
    low, high, image = 9, 4000, Image.open(io.BytesIO(png(deep[2])))
    advice = re.search(r"Image\.fromarray\(.*\)\)", str(error.value))[0]
    scaled = eval(advice, {"Image": Image, "numpy": np, "image": image, "low": low, "high": high})
    assert (scaled.mode, np.asarray(scaled).max()) == ("L", 255)
    lazy([png(np.asarray(scaled))], (5, 5, 1)).check()


def test_pixels_have_one_or_three_channels():
    assert check_channels((32, 32, 3)) == (32, 32, 3)
    with pytest.raises(ValueError, match=r"num_channels is 2: image files have 1 \(grey\) or 3"):
        check_channels((32, 32, 2))
