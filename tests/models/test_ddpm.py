import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

import models
from models import torch_import
from models.ddpm import DDPM

SMALL = DDPM(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), dropout=0.5)
X = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LABELS = jnp.array([0.5, 3.0])


@pytest.mark.thorough
def test_parameter_count_is_the_published_one():
    leaves = jax.tree.leaves(weights.shapes(DDPM(), jnp.zeros((1, 32, 32, 3)), LABELS[:1]))
    assert sum(leaf.size for leaf in leaves) == 35_218_947


@pytest.mark.thorough
def test_uncentred_data_is_centred_inside_and_the_output_is_divided_by_the_level_s_sigma():
    """Compared with the published outputs, which test_torch_import reproduces without changes."""
    arrays = golden.load("ddpm_vp")
    config = golden.config(arrays)
    config.model.name, config.model.scale_by_sigma, config.data.centered = "ddpm", True, False
    params = torch_import.score_sde(golden.state_dict(arrays), config)
    network, labels = models.create(config), arrays["labels"]
    x = (golden.channels_last(arrays["x"]) + 1) / 2
    sigma = 50.0 * (0.01 / 50.0) ** (labels / 999)
    output = jax.jit(network.apply)({"params": params}, x, labels)
    output *= sigma[:, None, None, None]
    golden.assert_close(output, golden.channels_last(arrays["output"]), 1e-5)


@pytest.mark.thorough
def test_an_unconditional_network_ignores_its_labels_and_dropout_acts_in_training_only():
    network = SMALL.clone(conditional=False, ch_mult=(1,), attn_resolutions=())
    params = weights.random(network, X, LABELS)

    @jax.jit
    def run(params, x, labels, key):
        quiet = network.apply({"params": params}, x, labels)
        return quiet, network.apply({"params": params}, x, labels, True, rngs={"dropout": key})

    (quiet, first), (same, second) = (
        run(params, X, seed * LABELS, jax.random.key(seed)) for seed in (1, 2)
    )
    np.testing.assert_array_equal(quiet, same)
    assert np.abs(first - second).max() > 0.1 * np.abs(quiet).max()


def test_resampling_without_convolutions_removes_only_their_parameters():
    """test_resample checks the mean pooling and nearest neighbours that replace them."""
    with_conv = weights.shapes(SMALL, X, LABELS)
    without = weights.shapes(SMALL.clone(resamp_with_conv=False), X, LABELS)
    assert with_conv.keys() - without.keys() == {"Downsample_0", "Upsample_0"}
    assert without == {name: with_conv[name] for name in without}


def test_a_size_that_cannot_be_halved_is_refused():
    message = r"28 x 28 pixels cannot .* 3 times.* multiple of 8, as in 24 x 24 or 32 x 32"
    with pytest.raises(ValueError, match=message):
        weights.shapes(DDPM(nf=8), jnp.zeros((1, 28, 28, 1)), LABELS[:1])
