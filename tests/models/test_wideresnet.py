import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.wideresnet import WideBlock, WideResNet

NETWORK = WideResNet(blocks_per_group=1, channel_multiplier=1, num_outputs=3)
X = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LABELS = jnp.array([0.5, 3.0])


@pytest.fixture(scope="module")
def logits():
    """A function (x, labels) -> logits, with random weights and Fourier frequencies of 1."""
    params = weights.random(NETWORK, X, LABELS)
    params["FourierEmbedding_0"]["W"] = np.ones(128, "f4")
    apply = jax.jit(NETWORK.apply)
    return lambda x, labels: apply({"params": params}, x, labels)


def test_parameter_count_is_that_of_depth_28_and_width_10():
    leaves = jax.tree.leaves(weights.shapes(WideResNet(), jnp.zeros((1, 32, 32, 3)), LABELS[:1]))
    widths = [16, *(160,) * 4, *(320,) * 4, *(640,) * 4]
    blocks = sum(
        2 * i + 9 * i * o + 512 * o + o + 2 * o + 9 * o * o for i, o in itertools.pairwise(widths)
    )
    embedding = 128 + (256 + 1) * 512 + (512 + 1) * 512
    expected = embedding + 9 * 3 * 16 + blocks + 2 * 640 + (640 + 1) * 10
    assert sum(leaf.size for leaf in leaves) == expected == 38_913_242


@pytest.mark.thorough
def test_the_noise_level_comes_in_by_fourier_features_of_its_logarithm(logits):
    """At frequency 1, a factor of e goes once around the circle; its root does not."""
    first = logits(X, LABELS)
    np.testing.assert_allclose(logits(X, np.e * LABELS), first, rtol=1e-3, atol=1e-4)
    assert np.abs(logits(X, np.e**0.5 * LABELS) - first).max() > 0.1


@pytest.mark.thorough
def test_each_image_is_standardised_and_independent_of_others(logits):
    first = logits(X, LABELS)
    np.testing.assert_allclose(logits(3 * X + 1, LABELS), first, rtol=1e-3, atol=1e-4)
    other = logits(X.at[1].set(X[0]), LABELS)
    np.testing.assert_allclose(other[0], first[0], rtol=1e-5, atol=1e-6)
    assert np.abs(other[1] - first[1]).max() > 1e-2
    assert np.isfinite(logits(jnp.ones_like(X), LABELS)).all()


@pytest.mark.thorough
def test_a_block_with_zero_weights_is_its_skip():
    x, temb = np.random.RandomState(0).standard_normal((2, 8, 8, 4)).astype("f4"), jnp.ones((2, 5))

    def run(shrink, activate_skip, values):
        block = WideBlock(8, shrink, activate_skip)
        return block.apply({"params": weights.zeros_but(values, block, x, temb)}, x, temb)

    padding = [(0, 0)] * 3 + [(0, 4)]
    np.testing.assert_array_equal(run(False, False, {}), np.pad(x, padding))
    means = x.reshape(2, 4, 2, 4, 2, 4).mean((2, 4))
    np.testing.assert_allclose(run(True, False, {}), np.pad(means, padding), rtol=1e-5, atol=1e-6)
    bias = np.array([1.0, -1.0, 2.0, 0.0], "f4")  # of the first normalisation
    activated = run(False, True, {"GroupNorm_0/bias": bias})
    np.testing.assert_array_equal(activated[1, 2, 3], [1, 0, 2, 0, 0, 0, 0, 0])


def test_a_size_that_cannot_be_halved_twice_is_refused():
    with pytest.raises(ValueError, match="30 x 30 pixels cannot be halved 2 times"):
        weights.shapes(NETWORK, jnp.zeros((1, 30, 30, 3)), LABELS[:1])
