"""Tests of the comparison with PyTorch's libraries: that both programs compute the same."""

from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_lib
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import peers
from experiments.benchmark.peers import models, pairs
from experiments.benchmark.presets import PRESETS


def test_a_library_that_is_missing_is_named(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(peers.metadata, "version", version)
    with pytest.raises(ValueError, match="--peers needs torch: pip install torch diffusers"):
        next(peers.figures(PRESETS["cpu"], 1))


def test_the_flag_asks_for_nothing_else_and_nothing_else_asks_for_peers():
    assert benchmark.parse(["--peers"]).only == ["peers"]
    assert "peers" not in benchmark.parse([]).only


def test_the_exact_denoiser_of_a_mixture_is_that_of_the_score():
    torch = pytest.importorskip("torch")
    mixture = sde_lib.GaussianMixture((0.3, 0.7), ((1.0, -1.0), (2.0, 0.5)), 0.4)
    model = models.known("mixture", mixture)
    x = np.random.RandomState(0).standard_normal((5, 2)).astype(np.float32)
    level = np.array([0.1, 0.5, 1.0, 2.0, 5.0], np.float32)
    score = model.score_fn(jnp.asarray(x), jnp.asarray(level))  # under EDM, t is the noise level
    denoised = model.denoised(torch.tensor(x), torch.tensor(level)).numpy()
    np.testing.assert_allclose(denoised, x + level[:, None] ** 2 * score, rtol=1e-4, atol=1e-5)


def test_samples_and_likelihoods_of_a_gaussian_are_those_of_k_diffusion():
    pytest.importorskip("k_diffusion")
    gaussian = sde_lib.GaussianMixture((1.0,), ((0.0,) * 4,), 0.5)
    model = models.known("Gaussian", gaussian)
    pair = pairs.samples(model, 16)
    np.testing.assert_allclose(pair.ours(), pair.theirs(), rtol=1e-3, atol=1e-4)
    x = np.asarray(gaussian.sample(jax.random.key(0), 16))
    figure = peers.likelihood(model, x, "", 1)
    assert figure.details["ours: error"] < 1e-3
    assert figure.details["their nfe"] > 0
