"""Tests of the encoder and decoder of vectors."""

import jax
import numpy as np
import pytest

from models.vector_autoencoder import VectorAutoencoder


@pytest.mark.thorough
@pytest.mark.parametrize("latent", [2, 4])
def test_it_starts_as_the_identity_with_log_variances_of_0(latent):
    network = VectorAutoencoder(nf=8, num_res_blocks=1, latent_channels=latent, channels=6)
    x = jax.random.normal(jax.random.key(0), (5, 3))
    variables = network.init(jax.random.key(1), x)
    mean, log_variance = network.apply(variables, x, method="encode")
    kept = min(latent, 3)
    np.testing.assert_array_equal(mean[:, :kept], x[:, :kept])
    np.testing.assert_array_equal(mean[:, kept:], 0)
    np.testing.assert_array_equal(log_variance, 0)
    decoded = network.apply(variables, mean, method="decode")
    assert decoded.shape == (5, 6)
    np.testing.assert_array_equal(decoded[:, 3:], 0)
    np.testing.assert_array_equal(decoded[:, :kept], x[:, :kept])
