import json

import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import pipeline
from PIL import Image, ImageDraw
from toy_latents import make_autoencoder

import samplers
from configs import digits
from experiments.build import pipelines
from experiments.data.latents import Decoder
from experiments.data.scaling import Scaling
from experiments.pipeline import show
from experiments.pipeline.edit import Edit, Fit, edit_images, files, masks, views
from experiments.runs.pictures import read_provenance

DDIM = samplers.create("ddim", n_steps=6)


def made(**changes):
    config = digits.get_config("vp_score_sde")
    config.update_from_flattened_dict({"data.image_size": 8} | changes)
    return pipeline(config, sampler=DDIM)


@pytest.fixture(scope="module")
def model():
    """A model of grey Gaussian images of 8 x 8 pixels."""
    return made()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of several sizes and modes, and a mask of the first one's size."""
    folder = tmp_path_factory.mktemp("own")
    ramp = np.linspace(0, 255, 24 * 16).reshape(24, 16).astype(np.uint8)
    colours = Image.fromarray(np.stack([ramp, ramp.T.reshape(24, 16), ramp], axis=-1))
    colours.save(folder / "a.png")
    colours.convert("CMYK").save(folder / "b.jpg")
    Image.fromarray(ramp.repeat(3, axis=1)).save(folder / "c.png")
    colours.convert("RGBA").resize((5, 5)).save(folder / "d.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(folder / "e.png")
    colours.convert("P").save(folder / "f.gif")
    (folder / "notes.txt").write_text("no image")
    return folder


def write_mask(path, size, box):
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    mask.save(path)
    return path


@pytest.mark.thorough
def test_files_of_any_size_and_kind_come_to_the_model_s_size(model, folder):
    columns = model.edit(folder, "variations", strength=0.0, n_results=1)
    assert columns["original"].shape == (6, 8, 8, 1)
    assert columns["original"].dtype == np.uint8
    np.testing.assert_array_equal(columns["result 1"], columns["original"])
    one, two = model.edit([folder / "a.png", folder / "e.png"], "variations", n_results=1)[
        "original"
    ]
    np.testing.assert_allclose(one[..., 0].mean(), two[..., 0].mean(), atol=25)
    whole = model.edit(str(folder / "c.png"), "variations", crop="none", n_results=1)
    middle = model.edit(str(folder / "c.png"), "variations", n_results=1)
    assert np.ptp(whole["original"][0, 3]) > np.ptp(middle["original"][0, 3])


def test_images_as_a_list_are_split_at_commas(folder):
    paths = f"{folder}/a.png, {folder}/b.jpg"
    assert files.split(paths) == [f"{folder}/a.png", f"{folder}/b.jpg"]
    (folder / "x,y.png").write_bytes((folder / "a.png").read_bytes())
    assert files.split(f"{folder}/x,y.png") == [f"{folder}/x,y.png"]
    (folder / "x,y.png").unlink()
    assert [each.name for each in files.read_images([folder], 3, "white")] == list("abcdef")


@pytest.mark.thorough
def test_a_mask_file_is_white_where_results_are_made(model, folder, tmp_path):
    mask = write_mask(tmp_path / "mask.png", (16, 24), (0, 0, 15, 11))
    columns = model.edit(folder / "a.png", "inpaint", mask=mask, n_results=2)
    original = columns["original"]
    for k in (1, 2):
        result = columns[f"result {k}"]
        np.testing.assert_array_equal(result[:, 4:], original[:, 4:])
        assert (result[:, :4] != original[:, :4]).mean() > 0.8
    assert (columns["given"][:, :4] == 128).all()
    half = write_mask(tmp_path / "half.png", (8, 12), (0, 0, 7, 5))  # of the same aspect ratio
    again = model.edit(folder / "a.png", "inpaint", mask=half, n_results=2)
    np.testing.assert_array_equal(again["result 1"], columns["result 1"])


@pytest.mark.thorough
def test_only_the_part_around_the_mask_is_edited_at_the_model_s_size(model):
    rng = np.random.RandomState(0)
    pictures = [rng.randint(0, 256, shape).astype(np.uint8) for shape in ((40, 64, 1), (40, 64, 1))]
    known = np.ones((40, 64), bool)
    known[10:22, 30:40] = False
    options = Edit("inpaint", 1, only_masked=True, padding=2, mask_blur=1.0)
    columns = edit_images(model, pictures, options, known)
    weight = masks.weight(known, blur=1.0)
    for picture, result in zip(pictures, columns["result 1"], strict=True):
        assert result.shape == (40, 64, 1)
        np.testing.assert_array_equal(result[weight == 0], picture[weight == 0])
        assert (result != picture)[~known].mean() > 0.9
    rows, columns = views.around(~known, 2, (8, 8))
    assert (rows, columns) == (slice(8, 24), slice(27, 43))
    rows, columns = views.around(~known, 30, (8, 8))  # no larger than the image
    assert (rows, columns) == (slice(0, 40), slice(0, 64))


@pytest.mark.thorough
def test_small_images_are_enlarged_from_their_own_pixels(model):
    small = np.random.RandomState(0).randint(0, 256, (1, 4, 4, 1)).astype(np.uint8)
    columns = model.edit(small, "super_resolution", n_results=1)
    np.testing.assert_array_equal(columns["given"][:, ::2, ::2], small)
    means = columns["result 1"].reshape(1, 4, 2, 4, 2, 1).mean(axis=(2, 4))
    clipped = (columns["result 1"] == 0) | (columns["result 1"] == 255)
    whole = ~clipped.reshape(1, 4, 2, 4, 2, 1).any(axis=(2, 4))
    np.testing.assert_allclose(means[whole], small[whole], atol=2)


@pytest.mark.thorough
def test_results_are_saved_one_by_one_and_beside_the_images(model, tmp_path, folder):
    model = model.replace(folder=tmp_path, seed=5)
    options = Edit("inpaint", 1, only_masked=True, mask="centre", padding=0)
    given = files.read_images([folder / "a.png", folder / "c.png"], 1, "white")
    columns = edit_images(model, [each.pixels for each in given], options)
    grid = show.save_edit(model, columns, options, [each.name for each in given])
    single = grid.with_suffix("") / "001_c_result_1.png"
    np.testing.assert_array_equal(np.asarray(Image.open(single)), columns["result 1"][1][..., 0])
    for path in (grid, single):
        about = read_provenance(path)
        assert about["seed"] == 5
        assert about["images"] == ["a", "c"]
        assert "only_masked=True" in about["edit"]
    assert json.loads(grid.with_suffix(".json").read_text())["run"] == str(tmp_path)
    assert Image.open(grid).size[0] > Image.open(single).size[0]


def test_masks_grow_and_blur_outwards():
    known = np.ones((9, 9), bool)
    known[4, 4] = False
    assert (masks.weight(known)[..., 0] == ~known).all()
    assert masks.weight(known, grow=1).sum() == 5
    soft = masks.weight(known, blur=1.0)[..., 0]
    assert soft[4, 4] == 1
    assert (np.diff(soft[4, 4:]) <= 0).all()
    assert soft[4, 8] == 0 < soft[4, 7]
    expected = [[0, 0, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]
    latent = masks.smaller(soft[None, :8, :8, None], (4, 4))
    np.testing.assert_array_equal(latent[0, ..., 0], expected)


def test_the_fill_is_smooth_and_the_rest_stays():
    x = np.broadcast_to(np.linspace(-1, 1, 16)[:, None], (1, 16, 16, 1)).copy()
    weights = np.zeros((1, 16, 16, 1), np.float32)
    weights[:, 5:11, 5:11] = 1
    x[:, 5:11, 5:11] = 9
    filled = masks.filled(x, weights)
    assert (filled[weights == 0] == x[weights == 0]).all()
    assert np.abs(filled).max() <= 1


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("missing.png", {}, r"config.edit.images is .*missing.png', which does not exist"),
        ("notes.txt", {}, r"config.edit.images: .*notes.txt: damaged, or no image; give an image"),
        ("empty", {}, r"config.edit.images = .*empty' holds no image"),
        ("float.tif", {}, r"float.tif: its pixels have Pillow's mode F, whose black and white"),
        ("a.png", {"crop": "middle"}, "config.edit.crop 'middle' is unknown"),
        ("a.png", {"mask": "notes.txt"}, r"config.edit.mask: .*notes.txt: damaged, or no image"),
        ("a.png", {"mask": "wide.png"}, r"config.edit.mask has the shape .*aspect ratio"),
        ("a.png", {"mask": "black.png"}, "leaves nothing to make"),
        ("a.png", {"mask": "white.png"}, "leaves nothing known"),
        ("a.png", {"mask": "white.png", "only_masked": True}, "leaves nothing known"),
        ("a.png", {"mask": "gone.png"}, r"config.edit.mask '.*gone.png' is unknown: choose one"),
    ],
)
def test_impossible_files_are_refused(model, folder, tmp_path, given, options, message):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "empty").mkdir()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.new("L", (24, 16)).save(tmp_path / "wide.png")
    Image.new("L", (16, 24)).save(tmp_path / "black.png")
    Image.new("L", (16, 24), 255).save(tmp_path / "white.png")
    if "." in options.get("mask", ""):
        options = options | {"mask": str(tmp_path / options["mask"])}
    with pytest.raises(ValueError, match=message):
        model.edit(tmp_path / given, "inpaint", n_results=1, **options)


def test_other_kinds_and_sizes_of_samples_are_refused(model):
    picture = Image.new("L", (8, 8))
    for images in ([], [picture], picture, ["a.png", np.zeros((8, 8, 1), np.uint8)]):
        with pytest.raises(ValueError, match="images must be paths of files and folders"):
            model.edit(images, "variations")
    with pytest.raises(ValueError, match=r"have the shape \(9, 8, 1\), those of the model have"):
        model.edit(np.zeros((1, 9, 8, 1), np.float32), "variations")


def test_arrays_of_other_channels_and_models_of_floats_are_refused(model):
    with pytest.raises(ValueError, match=r"image number 0 has the shape \(8, 8, 3\)"):
        model.edit(np.zeros((1, 8, 8, 3), np.uint8), "variations")
    config = digits.get_config("vp_score_sde")
    config.data.num_channels = 4
    four = pipelines.untrained(config)
    with pytest.raises(ValueError, match="are for a model of grey or RGB images"):
        four.edit(np.zeros((1, 8, 8, 4), np.uint8), "variations")


@pytest.mark.thorough
def test_images_in_colour_for_a_model_in_colour(folder):
    colour = made(**{"data.num_channels": 3})
    columns = colour.edit(folder / "a.png", "colorize", n_results=1)
    np.testing.assert_allclose(
        columns["result 1"].mean(-1), jnp.clip(columns["original"].mean(-1), 0, 255), atol=40
    )
    grey = colour.edit(folder / "c.png", "colorize", n_results=1)["original"]
    assert (grey == grey[..., :1]).all()


def test_a_mask_that_makes_all_latents_anew_is_refused(tmp_path):
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    decoder = Decoder(make_autoencoder(tmp_path), zero, one)
    latent = pipeline(digits.get_config("vp_score_sde"), sampler=DDIM, shape=(4, 4, 1))
    latent = latent.replace(decoder=decoder, scaling=Scaling(None))
    known = np.arange(8) % 2 * np.ones((8, 1)) > 0  # half of the pixels, and no latent
    images = np.zeros((1, 8, 8, 1), np.uint8)
    message = "in latents that cover 2 x 2 pixels each, leaves nothing known.*one of these blocks"
    for given in (images, latent.from_images(images)):
        with pytest.raises(ValueError, match=message):
            latent.edit(given, "inpaint", mask=known)


@pytest.mark.parametrize("name", ["filter", "background"])
def test_names_of_the_fit_are_those_of_the_edit(name):
    with pytest.raises(ValueError, match=f"config.edit.{name}"):
        Fit(**{name: "nothing"})
