import csv
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from exact_models import pipeline
from PIL import Image

import samplers
from configs import digits, points
from experiments.commands import detect
from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.evaluation.detect import detection

N = 297


class ExactRequest(Request):
    """A request for a model of Gaussian data, whose test set are noise images."""

    def model(self, step=None):
        images = np.random.RandomState(0).randint(0, 17, (N, 8, 8, 1)).astype(np.uint8)
        gaussian = Gaussian(mean=0.1, std=0.3)
        config = digits.get_config("vp_score_sde")
        score = gaussian.score_fn(pipeline(config).sde)
        sampler = samplers.create("euler", n_steps=20)
        about = {"sampler": sampler, "folder": self.folder, "step": 7}
        return pipeline(config, score, Dataset(images, images, 17), **about)


def config(**changes):
    result = digits.get_config("vp_score_sde")
    result.detect.update({"n_images": 100, "n_steps": 5} | changes)
    return result


@pytest.mark.thorough
def test_its_samples_are_found_among_images_that_the_model_does_not_know(tmp_path, capsys):
    detect.run(ExactRequest(config(), tmp_path))
    found, *others, table, picture = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in others] == [
        *("AUC of noise_loss, samples", "AUC of classifier, samples"),
    ]
    with open(table) as file:
        rows = list(csv.DictReader(file))
    errors = {
        name: np.array([float(row["reconstruction"]) for row in rows if row["set"] == name])
        for name in ("real", "samples")
    }
    model = ExactRequest(config(), tmp_path).model()
    x = model.dataset().test[np.linspace(0, 296, 100).astype(int)]
    expected = detection.reconstruction_errors(model, (x, {}), 5)
    np.testing.assert_allclose(errors["real"], expected, rtol=1e-5)
    assert len(errors["samples"]) == 100
    auc = detection.auc(errors["real"], errors["samples"])
    assert found.startswith(f"AUC of reconstruction, samples: {auc} (step 7: 100 ")
    assert auc.value > 0.99
    name = picture.rpartition("/")[2]
    assert name.startswith("detect_7_Euler20_seed42_")
    assert name.endswith(".png")

    detect.run(ExactRequest(config(statistics=("noise_loss",)), tmp_path))
    assert table not in capsys.readouterr().out.splitlines()  # other options, another file


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_images", 1, "config.detect.n_images is 1: it must be at least 2"),
        ("n_steps", 1, "config.detect.n_steps is 1: it must be at least 2"),
        ("statistics", ("dire",), "config.detect.statistics 'dire' is unknown"),
        ("statistics", (), "config.detect.statistics is empty: give one or more"),
        (
            "distortions",
            ("jpg",),
            "distortions 'jpg' is unknown: did you mean 'jpeg'",
        ),
        ("weighting", "minsnr", "config.detect.weighting 'minsnr' is unknown: did you mean"),
        ("n_images", 298, "config.detect.n_images is 298: it must be at most 297"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path, name, value, message):
    with pytest.raises(ValueError, match=message):
        detect.run(ExactRequest(config(**{name: value}), tmp_path))


class Langevin(ExactRequest):
    def model(self, step=None):
        config = points.get_config()
        config.training.sde, config.sampling.method = "cld", "predictor_corrector"
        return pipeline(config)


def test_states_that_are_more_than_data_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="does not support the SDE CLD, whose states are more than"
    ):
        detect.run(Langevin(config(), tmp_path))


@pytest.mark.thorough
def test_files_are_compared_by_source_and_distortion(tmp_path, capsys):
    """Smooth images as the real ones, noise and training images as suspected ones."""
    random = np.random.RandomState(1)
    training = ExactRequest(config(), tmp_path).model().dataset().train[:4, ..., 0]
    sets = {"smooth": np.full((4, 20, 30), 140), "noise": random.randint(0, 256, (5, 9, 9))}
    sets["known"] = np.round(training * (255 / 16))
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        for k, image in enumerate(images):
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / name / f"{k}.png")
    options = {"real": str(tmp_path / "known"), "distortions": ("none", "blur")}
    options |= {"suspected": f"{tmp_path / 'smooth'},{tmp_path / 'noise'}"}
    detect.run(ExactRequest(config(statistics=("reconstruction",), **options), tmp_path))
    copies, *lines, table, _ = capsys.readouterr().out.splitlines()
    assert copies == "4 of 4 real images are training images"
    assert [line.partition(":")[0] for line in lines] == [
        *("AUC of reconstruction, smooth", "AUC of reconstruction, noise"),
        *("AUC of reconstruction, smooth after blur", "AUC of reconstruction, noise after blur"),
    ]
    assert ": 1.000 +- 0.000 (step 7: 4 real images, 4 suspected)" in lines[0]
    with open(table) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (4 + 4 + 5)
    both = [
        np.array(
            [
                float(r["reconstruction"])
                for r in rows
                if r["set"] == "noise" and r["distortion"] == name
            ]
        )
        for name in ("none", "blur")
    ]
    assert (both[1] < both[0]).all()  # blurred noise is nearer to the model's mean


def test_real_images_of_a_model_in_latents_are_compared_with_the_images(
    tmp_path, monkeypatch, capsys
):
    class Halved:
        """A decoder of images that are twice their latents."""

        def __init__(self, scaling):
            self.scaling = scaling

        def image_shape(self, shape):
            return shape

        def encode(self, images):
            return images / 2

    model = ExactRequest(config(), tmp_path).model()
    dataset, scaling = model.dataset(), model.scaling
    latents = model.replace(decoder=Halved(scaling), scaling=type(scaling)(None))
    monkeypatch.setattr(detect.data, "images", lambda config: dataset)
    for k, image in enumerate([*dataset.train[:3, ..., 0], np.zeros((8, 8))]):
        grey = np.round(image * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / f"{k}.png")
    given = config(real=str(tmp_path), suspected=str(tmp_path))
    options = detect.Options(**given.detect.to_dict())
    real, _ = detect.sets(latents, options, tmp_path, given)
    assert capsys.readouterr().out == "3 of 4 real images are training images\n"
    shown = scaling.from_uint8(np.round(dataset.train[:3] * (255 / 16)))
    np.testing.assert_allclose(real.values[:3], shown / 2)


def test_a_weighting_by_name_has_the_options_of_the_run_s_own():
    made, log_snr = config(), jnp.linspace(-3, 3, 5)
    model = pipeline(made)
    assert detect.weighting(made, model, "") is detect.weighting(made, model, "variance") is None
    made.weighting.update({"name": "sigmoid", "bias": 1.0})
    weights: Any = detect.weighting(made, model, "sigmoid")
    np.testing.assert_allclose(weights(log_snr), 1 / (1 + np.exp(log_snr - 1)), rtol=1e-5)
    other: Any = detect.weighting(made, model, "v")
    np.testing.assert_allclose(other(log_snr), 1 + np.exp(-log_snr), rtol=1e-5)
    assert made.weighting.name == "sigmoid"
    given = config(weighting="v", statistics=("likelihood",))
    with pytest.raises(ValueError, match="has no 'noise_loss': add it"):
        detect.Options(**given.detect.to_dict())


def test_folders_of_one_name_are_told_apart():
    assert detect.distinct(["runs/a", "there/b.png"]) == ["a", "b.png"]
    for paths in (["runs/a/samples", "runs/b/samples"], ["here/real"]):
        assert detect.distinct(paths) == paths


def test_files_need_a_model_of_images_without_conditions(tmp_path):
    class Conditional(ExactRequest):
        def model(self, step=None):
            made = digits.get_config("vp_score_sde")
            made.model.class_conditional, made.model.label_dropout = True, 0.1
            return pipeline(made)

    class Points(ExactRequest):
        def model(self, step=None):
            return pipeline(points.get_config())

    with pytest.raises(ValueError, match="this model has conditions"):
        detect.run(Conditional(config(real="here"), tmp_path))
    with pytest.raises(ValueError, match=r"detect\.distortions needs a model of grey or RGB"):
        detect.run(Points(config(distortions=("jpeg",)), tmp_path))


@pytest.mark.thorough
def test_samples_are_drawn_once(tmp_path, monkeypatch, capsys):
    request = ExactRequest(config(), tmp_path)
    detect.run(request)
    text = capsys.readouterr().out
    monkeypatch.setattr(detect.draw, "draw_all", lambda *_: pytest.fail("drawn again"))
    detect.run(request)
    assert capsys.readouterr().out == text
