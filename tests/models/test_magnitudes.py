import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from models.magnitudes import block_magnitudes


class ScaleBlock(nn.Module):
    """Multiplies by its factor."""

    factor: float

    @nn.compact
    def __call__(self, x):
        return self.factor * nn.Dense(2, name="inner")(x)


class PairBlock(nn.Module):
    """Gives no array."""

    @nn.compact
    def __call__(self, x):
        return x, x


class Network(nn.Module):
    """Two blocks that count, and a layer and a pair that do not."""

    @nn.compact
    def __call__(self, x, labels, train=False, shift=0.0):
        x = nn.Dense(2, name="first")(x)
        x, _ = PairBlock()(ScaleBlock(3.0)(x) + shift)
        return ScaleBlock(2.0)(x)


IDENTITY = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
PARAMS = {"first": IDENTITY, **{f"ScaleBlock_{k}": {"inner": IDENTITY} for k in (0, 1)}}


def test_the_root_mean_square_of_each_block_of_each_sample():
    x = jnp.array([[1.0, 1.0], [3.0, 4.0]])
    found = block_magnitudes(Network(), PARAMS, x, jnp.zeros(2))
    assert found.keys() == {"ScaleBlock_0", "ScaleBlock_1"}
    rms = np.array([1.0, np.sqrt(12.5)])
    np.testing.assert_allclose(found["ScaleBlock_0"], 3 * rms, rtol=1e-6)
    np.testing.assert_allclose(found["ScaleBlock_1"], 6 * rms, rtol=1e-6)
    shifted = block_magnitudes(Network(), PARAMS, x, jnp.zeros(2), shift=1.0)
    assert float(shifted["ScaleBlock_1"][0]) == pytest.approx(8.0)


def test_a_network_without_blocks_has_none():
    x = jnp.ones((3, 2))
    assert block_magnitudes(nn.Dense(2), IDENTITY, x) == {}
