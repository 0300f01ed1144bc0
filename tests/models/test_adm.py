import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.adm import ADM
from models.adm_blocks import INIT, ADMBlock

SMALL = ADM(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), num_head_channels=4)
X = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LABELS = jnp.array([-0.5, 1.0])


def test_weights_start_uniform_and_of_the_published_size():
    draws = INIT(jax.random.key(0), (3, 3, 8, 64))
    bound = 1 / np.sqrt(3 * 3 * 8)
    assert 0.99 * bound < np.abs(draws).max() <= bound
    np.testing.assert_allclose(draws.std(), bound / np.sqrt(3), rtol=0.02)


@pytest.mark.thorough
def test_a_block_starts_as_the_identity_and_drops_out_in_training_only():
    block, temb = ADMBlock(features=3 * 4, dropout=0.5), jnp.ones((2, 8))
    x = jnp.tile(X, 4)

    @jax.jit
    def run(variables, key):
        at_start = block.apply(block.init(key, x, temb, False), x, temb, False)
        quiet = block.apply(variables, x, temb, False)
        return at_start, quiet, block.apply(variables, x, temb, True, rngs={"dropout": key})

    variables = {"params": weights.random(block, x, temb, False)}
    (start, quiet, first), (_, same, second) = (
        run(variables, jax.random.key(seed)) for seed in (1, 2)
    )
    np.testing.assert_array_equal(start, x)
    np.testing.assert_array_equal(quiet, same)
    assert np.abs(first - second).max() > 0.1 * np.abs(quiet).max()


@pytest.mark.thorough
def test_the_embedding_scales_and_shifts_a_block():
    """A block of one channel a group, whose convolutions are zero or the identity."""
    block, x, temb = ADMBlock(features=4, dropout=0.0), jnp.ones((1, 1, 2, 4)), jnp.ones((1, 1))
    x = x.at[0, 0, 0].set(-1.0)
    identity = np.zeros((3, 3, 4, 4), "f4")
    identity[1, 1] = np.eye(4)
    scale_and_shift = np.array([1, 2, 3, 4, 5, 6, 7, 8], "f4")
    values = {
        "GroupNorm_0/scale": np.ones(4, "f4"),
        "GroupNorm_0/bias": np.full(4, 100.0, "f4"),  # where swish is the identity
        "Conv_0/kernel": identity,
        "Dense_0/kernel": scale_and_shift[None] - 1,
        "Dense_0/bias": np.ones(8, "f4"),
        "GroupNorm_1/scale": np.ones(4, "f4"),
        "Conv_1/kernel": identity,
    }
    params = weights.zeros_but(values, block, x, temb, False)
    h = np.sign(x) * (1 + scale_and_shift[:4]) + scale_and_shift[4:]
    expected = x + h / (1 + np.exp(-h))
    np.testing.assert_allclose(block.apply({"params": params}, x, temb, False), expected, rtol=1e-4)


@pytest.mark.thorough
def test_uncentred_data_is_centred_inside():
    network = SMALL.clone(ch_mult=(1,), num_res_blocks=0, attn_resolutions=())
    params = weights.random(network, X, LABELS)

    @jax.jit
    def run(params, x):
        centred = network.clone(centered=True).apply({"params": params}, 2 * x - 1, LABELS)
        return centred, network.apply({"params": params}, x, LABELS)

    np.testing.assert_allclose(*run(params, X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        ({}, 7, "7 x 7 pixels cannot be halved 1 times"),
        (
            {"nf": 20, "num_head_channels": 12},
            8,
            "40 channels .* into 3 attention heads",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, size, message):
    with pytest.raises(ValueError, match=message):
        weights.shapes(SMALL.clone(**fields), jnp.zeros((1, size, size, 3)), LABELS[:1])
