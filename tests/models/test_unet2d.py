from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

import models
from configs import digits
from models.unet2d import UNet2D
from sde_lib import VE, VP

PLAIN = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "centered": True,
}
SKIP = PLAIN | {
    "down_block_types": ("SkipDownBlock2D", "SkipDownBlock2D"),
    "up_block_types": ("SkipUpBlock2D", "SkipUpBlock2D"),
    "norm_num_groups": 0,
    "time_embedding_type": "fourier",
}
X = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LABELS = jnp.array([0.5, 300.0])


@partial(jax.jit, static_argnames="network")
def run(network, params, x, labels, **options):
    return network.apply({"params": params}, x, labels, **options)


def made(fields):
    network = UNet2D(**fields)
    return network, weights.random(network, X, LABELS)


@pytest.mark.parametrize("fields", [PLAIN, SKIP])
@pytest.mark.parametrize("sides", [(8,), (8, 4), (4, 4, 8)])
def test_series_and_volumes_are_taken_like_images(fields, sides):
    x = jnp.zeros((2, *sides, 3))
    output, _ = jax.eval_shape(UNet2D(**fields).init_with_output, jax.random.key(0), x, LABELS)
    assert output.shape == x.shape


@pytest.mark.parametrize("fields", [PLAIN, SKIP])
def test_a_learned_variance_doubles_the_channels(fields):
    network, _ = made(fields | {"learned_variance": True})
    shape = jax.eval_shape(network.init_with_output, jax.random.key(0), X, LABELS)[0].shape
    assert shape == (2, 8, 8, 6)


@pytest.mark.thorough
def test_the_fourier_network_is_divided_by_its_label():
    network, params = made(SKIP)
    assert network.scale_by_sigma
    params["conv_out"]["bias"] += 1e4  # the rest is small beside it
    output = np.asarray(run(network, params, X, LABELS))
    np.testing.assert_allclose(output[0] * 0.5, output[1] * 300, rtol=1e-2)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["", "timestep"])
def test_no_class_adds_nothing_to_the_embedding(kind):
    conditional = UNet2D(**PLAIN, class_embed_type=kind, num_classes=3)
    params = weights.random(conditional, X, LABELS)
    own = params["class_embedding"]
    assert own.keys() == ({"linear_1", "linear_2"} if kind else {"kernel"})
    output = run(conditional, params, X, LABELS, class_labels=jnp.array([-1, 2]))
    bare = {name: value for name, value in params.items() if name != "class_embedding"}
    without = run(UNet2D(**PLAIN), bare, X, LABELS)
    np.testing.assert_allclose(output[0], without[0], atol=1e-5)
    assert np.abs(output[1] - without[1]).max() > 1e-3


@pytest.mark.thorough
def test_class_embeddings_can_be_given():
    network, params = made(PLAIN | {"class_embed_type": "identity"})
    without = run(UNet2D(**PLAIN), params, X, LABELS)
    given = jnp.zeros((2, 32)).at[1].set(1.0)
    output = run(network, params, X, LABELS, class_labels=given)
    np.testing.assert_allclose(output[0], without[0], atol=1e-5)
    assert np.abs(output[1] - without[1]).max() > 1e-3
    with pytest.raises(ValueError, match=r"class_labels has the shape \(2,\), .* \(2, 32\)"):
        network.apply({"params": params}, X, LABELS, class_labels=jnp.zeros(2))


@pytest.mark.thorough
def test_a_learned_table_is_interpolated_between_levels():
    network, params = made(PLAIN | {"time_embedding_type": "learned", "num_train_timesteps": 10})
    table = jnp.asarray(params["time_proj"])
    between = params | {"time_proj": table.at[4].set(0.75 * table[3] + 0.25 * table[4])}
    output = run(network, params, X, jnp.array([3.25, 20.0]))
    expected = run(network, between, X, jnp.array([4.0, 9.0]))  # beyond the table: its last row
    np.testing.assert_allclose(output, expected, atol=1e-5)


@pytest.mark.thorough
def test_recomputed_activations_change_nothing():
    plain, params = made(PLAIN)
    remat = UNet2D(**PLAIN, remat=True)
    assert weights.shapes(remat, X, LABELS) == weights.shapes(plain, X, LABELS)
    np.testing.assert_array_equal(run(remat, params, X, LABELS), run(plain, params, X, LABELS))


@pytest.mark.thorough
def test_every_parameter_is_trained():
    network, params = made(PLAIN | {"dropout": 0.1})

    @jax.jit
    def gradient(params):
        options = {"train": True, "rngs": {"dropout": jax.random.key(1)}}
        loss = lambda p: jnp.sum(network.apply({"params": p}, X, LABELS, **options) ** 2)  # noqa: E731
        return jax.grad(loss)(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all()
        assert "to_k" in name or np.abs(leaf).max() > 0, name  # a key's bias changes nothing


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"down_block_types": ("DownBlock2D",)}, "down_block_types has 1 entries, .* 2: give one"),
        ({"up_block_types": ("UpBlock2D", "UpBlock")}, "did you mean 'UpBlock2D'"),
        ({"time_embedding_type": "gaussian"}, "time_embedding_type 'gaussian' is unknown"),
        ({"time_embedding_type": "learned"}, "num_train_timesteps is 0: a learned time embedding"),
        ({"norm_num_groups": 0}, "leaves it to blocks with Skip alone"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0"),
        ({"downsample_padding": 2}, "downsample_padding is 2"),
        ({"block_out_channels": ()}, "block_out_channels is .*: it must be a tuple"),
        (
            {"up_block_types": ("SkipUpBlock2D", "UpBlock2D")},
            "blocks with Skip must be the last of them",
        ),
        (
            SKIP | {"down_block_types": ("DownBlock2D", "SkipDownBlock2D", "DownBlock2D")},
            "has 3 entries",
        ),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        UNet2D(**(PLAIN | fields))


def test_more_channels_a_head_than_a_block_has_are_refused():
    with pytest.raises(ValueError, match="attention_head_dim is 24, but a block has 16 channels"):
        weights.shapes(UNet2D(**PLAIN, attention_head_dim=24), X, LABELS)


@pytest.mark.parametrize(
    ("fields", "training", "message"),
    [
        ({"time_embedding_type": "fourier"}, {"continuous": False}, "takes the logarithm"),
        ({"time_embedding_type": "fourier"}, {}, "VE's convention"),
        ({"parametrization": "edm", "time_embedding_type": "learned"}, {}, "table of noise levels"),
        ({}, {"sde": "vesde"}, "cannot tell sigmas apart"),
    ],
)
def test_labels_that_it_does_not_know_are_refused(fields, training, message):
    config = digits.get_config("vp_score_sde")
    config.training.update(training)
    with config.unlocked():
        config.model.update({"num_train_timesteps": 1000} | fields)
        config.model.name = "unet2d"
    sde = VE() if config.training.sde == "vesde" else VP()
    with pytest.raises(ValueError, match=message):
        models.preconditioning(config, sde).check(models.create(config))
