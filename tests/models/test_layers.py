import jax.numpy as jnp
import numpy as np
import pytest

from models.layers import level_sigma


def test_levels_run_from_sigma_max_to_sigma_min_and_are_geometric_in_between():
    sigma = level_sigma(jnp.array([0.0, 4.5, 9.0]), 0.01, 1.0, num_scales=10)
    np.testing.assert_allclose(sigma, [1.0, 0.1, 0.01], rtol=1e-6)


def test_one_level_is_too_few():
    with pytest.raises(ValueError, match=r"config\.model\.num_scales is 1: it must be at least 2"):
        level_sigma(jnp.zeros(1), 0.01, 1.0, num_scales=1)
