"""Gaussian images: PiGDM is exact for them, so its intervals are calibrated."""

import dataclasses

import jax
import numpy as np
import pytest
from closed_forms import Gaussian
from exact_models import grey_images, pipeline
from toy_latents import SCALE, make_autoencoder

from configs import digits
from experiments.build.components import diffusion
from experiments.data import latents
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.studies.posterior import images
from experiments.studies.posterior.methods import Options
from samplers import Heun, measurement, posterior

DATA = Gaussian(0.0, 0.3)
OPTIONS = Options(("pigdm",), ("heun",), (39,), (2,), 24, 19, 0.2)


@pytest.fixture(scope="module")
def model():
    x = grey_images(DATA.sample(jax.random.key(0), (120, 8, 8, 1)), levels=17)
    config = digits.get_config()
    score_fn = DATA.score_fn(diffusion.sde(config))
    return pipeline(config, score_fn, Dataset(x[:80], x[80:], 17))


def setting(method):
    operator = measurement.inpainting(np.arange(8) < 4 * np.ones((8, 1)))
    return images.Setting("left half", operator, "method", method, "heun", Heun(20))


@pytest.mark.thorough
def test_intervals_of_an_exact_method_hold_the_truth_as_often_as_they_say(model):
    drawn, result = images.measure(model, OPTIONS, setting(posterior.PiGDM(DATA.std)))
    assert drawn.truth.shape == (24, 8, 8, 1)
    assert drawn.samples.shape == (24, 19, 8, 8, 1)
    assert (result.nfe, result.evaluations) == (39, 78)
    assert abs(result.coverage_50 - 0.5) < 0.05
    assert abs(result.coverage_90 - 0.9) < 0.04
    known = 1 / (1 / DATA.std**2 + 1 / OPTIONS.noise_std**2)
    assert abs(result.std - np.sqrt(0.5 * (known + DATA.std**2))) < 0.02


@pytest.mark.thorough
def test_intervals_of_dps_hold_it_too_seldom(model):
    _, result = images.measure(model, OPTIONS, setting(posterior.DPS(None)))
    assert result.coverage_90 < 0.87


@pytest.fixture(scope="module")
def of_latents(tmp_path_factory):
    """Latents [2, 2, 3] of N(0, 0.3^2), each of which decodes to four pixels of twice its value."""
    config, folder = digits.get_config(), tmp_path_factory.mktemp("latents")
    x = DATA.sample(jax.random.key(0), (120, 2, 2, 3))
    x = np.asarray(x)
    zero, std = np.zeros(3, np.float32), np.full(3, 2 * SCALE, np.float32)
    decoder = latents.Decoder(make_autoencoder(folder), zero, std)
    about = {"shape": (2, 2, 3), "scaling": Scaling(None), "decoder": decoder, "folder": folder}
    score_fn = DATA.score_fn(diffusion.sde(config))
    return pipeline(config, score_fn, Dataset(x[:80], x[80:], None), **about)


@pytest.mark.thorough
def test_intervals_are_of_the_pixels_of_latents(of_latents):
    """PiGDM by the decoder's tangent is exact: the decoder is linear, the latents Gaussian."""
    options = dataclasses.replace(OPTIONS, operators=("grey", "blur"))
    images.check(of_latents, options)
    found = images.settings(of_latents, options, [("heun", Heun(20))])
    assert [each.measurement for each in found] == ["grey", "blur"]
    drawn, result = images.measure(of_latents, options, found[0])
    assert drawn.samples.shape == (24, 19, 4, 4, 3)
    assert abs(result.coverage_50 - 0.5) < 0.07
    assert abs(result.coverage_90 - 0.9) < 0.05
    prior = 0.6**2
    measured = 1 / (1 / (prior / 3) + 4 / OPTIONS.noise_std**2)  # of the mean of three channels
    assert abs(result.std - np.sqrt(prior * 2 / 3 + measured)) < 0.04  # of 20 steps
    replaced = dataclasses.replace(options, methods=("replacement", "dps"))
    labels = [each.label for each in images.settings(of_latents, replaced, [("heun", Heun(20))])]
    assert not [label for label in labels if label.startswith("replacement")]
    assert len(labels) == 6


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        (("gray",), "operators 'gray' is unknown: did you mean 'grey'"),
        (("grey",), r"has 'grey', which is not for images of the shape \(8, 8, 1\)"),
    ],
)
def test_operators_that_do_not_fit_are_refused(model, operators, message):
    with pytest.raises(ValueError, match=message):
        images.check(model, dataclasses.replace(OPTIONS, operators=operators))


def test_ranks_of_uniform_samples_are_covered_exactly():
    ranks = np.arange(20) / 20
    assert images._coverage(ranks, 0.5) == 0.5
    assert images._coverage(ranks, 0.9) == 0.9


@pytest.mark.parametrize("n_samples", [18, 20, 100])
def test_numbers_of_samples_without_exact_intervals_are_refused(model, n_samples):
    options = Options(("pigdm",), ("heun",), (39,), (2,), 24, n_samples, 0.2)
    with pytest.raises(ValueError, match=f"n_samples is {n_samples}: with images it must be 19"):
        images.check(model, options)


def test_models_with_conditions_are_refused():
    config = digits.get_config()
    config.model.class_conditional = True
    with pytest.raises(ValueError, match="takes an unconditional model"):
        images.check(pipeline(config), OPTIONS)
