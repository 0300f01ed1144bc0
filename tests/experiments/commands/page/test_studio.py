import shlex

import numpy as np
import pytest
from PIL import Image

from experiments.build.components import sampling
from experiments.build.fields import configs
from experiments.command_line import parse
from experiments.commands.page.studio import Studio, fields_of
from experiments.main import COMMANDS
from experiments.pipeline import edit

FIELDS = {"seed": 3, "sampling.n_samples": 6, "sampling.method": "euler", "sampling.n_steps": 3}


@pytest.fixture(scope="module")
def studio(trained_digits):
    return Studio(configs.load(trained_digits), trained_digits)


def pixels(paths):
    return np.stack([np.asarray(Image.open(path)) for path in paths])


@pytest.mark.thorough
def test_samples_are_those_of_the_command_line_and_come_in_parts(studio):
    parts = [list(files) for files in studio.draw(FIELDS)]
    assert [len(files) for files in parts] == [4, 6]
    model, _ = studio.asked(FIELDS)
    expected = model.to_images(model.sample(6))[..., 0]
    assert np.abs(pixels(parts[-1]).astype(int) - expected).max() <= 1
    command = shlex.split(studio.command("sample", FIELDS))[2:]
    config = parse(command, dict.fromkeys(COMMANDS, "")).config
    assert (config.seed, config.sampling.method, config.sampling.n_steps) == (3, "euler", 3)


@pytest.mark.thorough
def test_a_picture_holds_the_fields_that_made_it(studio, tmp_path):
    (*_, files) = studio.draw(FIELDS)
    assert fields_of(files[0]) == FIELDS
    Image.new("L", (8, 8)).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"other\.png is no picture of this page"):
        fields_of(tmp_path / "other.png")


@pytest.mark.thorough
def test_the_seed_and_the_number_of_samples_compile_nothing_anew(studio):
    made = {id(studio.asked(FIELDS | other)[0].programs) for other in ({}, {"seed": 4})}
    assert made == {id(studio.asked(FIELDS | {"sampling.n_samples": 2})[0].programs)}
    assert made != {id(studio.asked(FIELDS | {"sampling.n_steps": 4})[0].programs)}


@pytest.mark.thorough
def test_a_way_goes_from_noise_to_the_first_sample(studio):
    way = pixels(studio.way(FIELDS))
    (*_, files) = studio.draw(FIELDS | {"sampling.n_samples": 1})
    assert len(way) > 2
    assert np.abs(way[-1].astype(int) - pixels(files)[0]).max() <= 1


@pytest.mark.thorough
def test_an_edit_makes_the_painted_part_anew_one_result_at_a_time(studio, tmp_path):
    image = np.random.RandomState(0).randint(256, size=(8, 8)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    painted = np.arange(8) < 3 * np.ones((8, 1))
    source = {"edit.images": str(tmp_path / "image.png")}
    fields = FIELDS | source | {"edit.task": "inpaint", "edit.n_results": 2}
    fields |= {"edit.mask": str(studio.mask_file(painted))}
    one, both = (list(files) for files in studio.edit(fields))
    assert one == both[:1]
    made = pixels(both)
    assert made.shape == (2, 8, 8)
    assert (made == image)[:, ~painted].all()
    assert (made != image)[:, painted].any()
    model, config = studio.asked(fields)
    columns = edit.edit(model, image[None, ..., None], sampling.edit(config), ~painted)
    for k in (0, 1):
        whole = columns[f"result {k + 1}"][0, ..., 0]
        assert np.abs(made[k].astype(int) - whole).max() <= 1
    rebuilt = list(studio.edit(FIELDS | source | {"edit.task": "reconstruct"}))
    assert [len(files) for files in rebuilt] == [1]


def test_files_that_a_command_names_outlast_the_page(trained_digits):
    studio = Studio(configs.load(trained_digits), trained_digits)
    mask = studio.mask_file(np.eye(8, dtype=bool))
    image = studio.kept_file(b"content", ".jpg")
    assert studio.mask_file(np.eye(8, dtype=bool)) == mask
    studio.folder.joinpath("result.png").write_bytes(b"")
    studio._temporary.cleanup()
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), np.eye(8, dtype=bool))
    assert image.read_bytes() == b"content"
    assert trained_digits in mask.parents


def test_fields_that_do_not_fit_are_refused(studio):
    with pytest.raises(ValueError, match=r"config\.sampling\.snr is 0\.1, .* has no such option"):
        list(studio.draw(FIELDS | {"sampling.snr": 0.1}))


@pytest.mark.thorough
def test_other_data_than_images_are_refused(trained_points):
    with pytest.raises(ValueError, match="grey or RGB images"):
        Studio(configs.load(trained_points), trained_points)
