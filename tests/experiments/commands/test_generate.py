import json

import numpy as np
import pytest
from discriminators import model_config, save_run

from experiments.commands import generate
from experiments.pipeline import sample
from experiments.training import state


@pytest.fixture
def config():
    result = model_config()
    result.sampling.n_samples, result.sampling.batch_size = 10, 4
    return result


def generated(folder):
    with np.load(folder / "generated.npz") as file:
        return file["samples"], json.loads(str(file["about"]))


def test_samples_are_the_model_s_from_noise_that_no_other_mode_draws(config, tmp_path):
    save_run(config, tmp_path)
    generate.run(config, tmp_path)
    samples, about = generated(tmp_path)
    model, params, _ = state.load(config, tmp_path)
    draw = sample.make_draw(config, model, params, 10)
    np.testing.assert_allclose(samples, draw(generate.FIRST).x, atol=1e-5)
    assert np.abs(samples - draw(0).x).min() > 1e-5
    assert about["sde"].startswith("VP(")
    assert about["sampling"]["n_steps"] == 4
    assert (about["step"], about["seed"], about["levels"]) == (1, 42, None)


def test_a_cut_off_set_goes_on_and_a_whole_one_stays(config, tmp_path, monkeypatch):
    save_run(config, tmp_path)
    drawn, cuts = [], [4]
    make_draw = sample.make_draw

    def counted(*arguments, **options):
        draw = make_draw(*arguments, **options)

        def draw_once(first):
            if first - generate.FIRST in cuts:
                cuts.clear()
                raise KeyboardInterrupt
            drawn.append(first - generate.FIRST)
            return draw(first)

        return draw_once

    monkeypatch.setattr(sample, "make_draw", counted)
    with pytest.raises(KeyboardInterrupt):
        generate.run(config, tmp_path)
    generate.run(config, tmp_path)
    assert drawn == [0, 4, 8]
    samples, about = generated(tmp_path)
    generate.run(config, tmp_path)
    config.sampling.n_samples = 9
    generate.run(config, tmp_path)
    assert drawn == [0, 4, 8]
    fewer, _ = generated(tmp_path)
    np.testing.assert_array_equal(fewer, samples[:9])
    config.sampling.sigma_max = 2.0
    generate.run(config, tmp_path)
    assert drawn == [0, 4, 8, 0, 4, 8]
    others, changed = generated(tmp_path)
    assert np.abs(others - fewer).max() > 1e-3
    assert (about["sampling"]["sigma_max"], changed["sampling"]["sigma_max"]) == (None, 2.0)
    assert changed["model"] == about["model"]


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "images.npz", train=np.zeros(3))
    with pytest.raises(ValueError, match="is no file of samples"):
        generate.read_about(tmp_path / "images.npz")
