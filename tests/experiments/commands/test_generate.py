import jax
import numpy as np
import pytest
import saved_runs

import samplers
from configs import points
from experiments.commands import generate
from experiments.commands.request import Request
from experiments.pipeline import draw
from experiments.runs.samples import (
    read_about,
    read_classes,
    read_noise,
    read_samples,
    write_samples,
)


@pytest.fixture
def run(points_run):
    """A run whose samples are drawn 4 at a time."""
    points_run.config.sampling.update(method="euler", n_steps=4, n_samples=10, batch_size=4)
    return points_run


def generated(run):
    generate.run(run.request())
    return read_samples(run.folder / "generated.npz")


@pytest.mark.thorough
def test_samples_are_the_model_s_from_noise_that_no_other_mode_draws(run, capsys):
    about, samples = generated(run)
    path = run.folder / "generated.npz"
    assert capsys.readouterr().out == f"{path}: 10 samples of step 20\n"
    drawn = draw.make_draw(run.request().model(), 10)
    np.testing.assert_allclose(samples, drawn(generate.FIRST).x, atol=1e-5)
    assert np.abs(samples - drawn(0).x).min() > 1e-5
    assert about["sde"].startswith("VP(")
    assert about["sampling"]["n_samples"] == 10
    assert (about["step"], about["seed"], about["levels"]) == (20, 42, None)


@pytest.mark.thorough
def test_pairs_hold_the_noise_that_each_sample_was_drawn_from(run):
    run.config.sampling.pairs = True
    _, samples = generated(run)
    model = run.request().model()
    start = samplers.Start(read_noise(run.folder / "generated.npz"), model.sde.t_max)
    about = jax.random.key(0), model.sde, model.score_fn(), samples.shape
    np.testing.assert_allclose(samples, model.sampler(*about, start=start).x, atol=1e-4)


@pytest.mark.thorough
def test_a_cut_off_set_continues_and_a_whole_one_stays(run, monkeypatch):
    drawn, cuts = [], [8]  # it starts when the batch from 4 on is not saved yet
    make_draw = draw.make_draw

    def counted(*arguments, **options):
        batch = make_draw(*arguments, **options)

        def draw_once(first):
            if first - generate.FIRST in cuts:
                cuts.clear()
                raise KeyboardInterrupt
            drawn.append(first - generate.FIRST)
            return batch(first)

        return draw_once

    monkeypatch.setattr(draw, "make_draw", counted)
    with pytest.raises(KeyboardInterrupt):
        generated(run)
    about, samples = generated(run)
    assert drawn == [0, 4, 4, 8]
    generated(run)
    run.config.sampling.n_samples = 9
    _, fewer = generated(run)
    assert drawn == [0, 4, 4, 8]
    np.testing.assert_array_equal(fewer, samples[:9])
    run.config.sampling.sigma_max = 2.0
    changed, others = generated(run)
    assert drawn[4:] == [0, 4, 8]
    assert np.abs(others - fewer).max() > 1e-3
    assert about["sampling"]["digest"] != changed["sampling"]["digest"]
    assert changed["model"] == about["model"]


@pytest.mark.thorough
def test_a_guided_model_is_refused(run):
    run.config.guidance.epsilon_scaling.scale = 1.01
    with pytest.raises(
        ValueError, match=r"config\.guidance sets EpsilonScaling, but .* without guidance"
    ):
        generate.run(run.request())


def test_a_file_of_another_kind_is_refused(tmp_path):
    np.savez(tmp_path / "images.npz", train=np.zeros(3))
    with pytest.raises(ValueError, match="is no file of samples"):
        read_about(tmp_path / "images.npz")


@pytest.mark.thorough
def test_samples_of_classes_have_them_on_record(tmp_path):
    """An older file of the same samples without classes is written again, from the same parts."""
    config = points.get_config("moons")
    config.model.update(nf=8, num_res_blocks=1, class_conditional=True)
    config.data.num_classes, config.sampling.labels = 3, (2, 0)
    config.sampling.update(method="euler", n_steps=4, n_samples=5, batch_size=4)
    saved_runs.save(config, tmp_path)
    generate.run(Request(config, tmp_path))
    path = tmp_path / "generated.npz"
    about, samples = read_samples(path)
    np.testing.assert_array_equal(read_classes(path), [2, 0, 2, 0, 2])
    del about["classes"]
    write_samples(path, about, samples=samples)
    generate.run(Request(config, tmp_path))
    np.testing.assert_array_equal(read_classes(path), [2, 0, 2, 0, 2])
