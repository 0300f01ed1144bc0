import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_configs import digits_config, points_config

import sde_lib
from experiments.build.components import diffusion, networks
from models.missing import input_shape, with_mask


def noise_model(name, shape, **options):
    config = (points_config if len(shape) == 1 else digits_config)()
    config.data.missing = "mask"
    config.model.update(class_conditional=False, label_dropout=0.0, name=name)
    with config.unlocked():
        config.model.update(options)
    return networks.noise_model(config, diffusion.sde(config), shape)


def test_the_mask_is_further_channels_and_output_is_the_first_half():
    seen = []

    def network(x, label):
        seen.append(x)
        return jnp.concatenate([2 * x[..., :3], x[..., 3:]], -1)

    x, mask = jnp.arange(6.0).reshape(2, 3), jnp.asarray([[1.0, 0, 1], [0, 1, 1]])
    np.testing.assert_array_equal(with_mask(network, mask)(x, jnp.ones(2)), 2 * x)
    np.testing.assert_array_equal(seen[0][:, 3:], mask)
    with_mask(network, None)(x, jnp.ones(2))
    np.testing.assert_array_equal(seen[1][:, 3:], np.ones((2, 3)))
    assert input_shape((8, 8, 3), True) == (8, 8, 6)
    assert input_shape((8, 8, 3), False) == (8, 8, 3)


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("mlp", (2,), {}),
        ("ncsnpp", (8, 8, 1), {}),
        ("ddpm", (8, 8, 1), {}),
        ("adm", (8, 8, 1), {"num_head_channels": 8, "group_size": 4}),
        ("dit", (8, 8, 1), {"patch_size": 2, "hidden_size": 16, "depth": 1, "num_heads": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_network_takes_a_mask(name, shape, options):
    """The score has the data's shape, in an abstract evaluation."""
    model = noise_model(name, shape, **options)
    params = jax.eval_shape(lambda key: model.init(key, (1, *shape)), jax.random.key(0))
    x, t = jnp.zeros((3, *shape)), jnp.ones(3)
    for mask in (None, jnp.ones_like(x)):
        score = jax.eval_shape(lambda p, m=mask: model.score_fn(p, observed=m)(x, t), params)
        assert score.shape == x.shape


@pytest.mark.thorough
def test_the_score_is_of_the_observed_part():
    """What stands in missing places does not matter; a mask of ones is the model of all values."""
    model, key = noise_model("mlp", (2,)), jax.random.key(0)
    params = jax.tree.map(lambda leaf: leaf + 0.1, model.init(key, (1, 2)))
    x, mask, t = jax.random.normal(key, (4, 2)), jnp.asarray([[1.0, 0]] * 4), jnp.full(4, 0.5)
    score_fn = model.score_fn(params, observed=mask)
    score = score_fn(x, t)
    np.testing.assert_array_equal(score[:, 1], 0)
    np.testing.assert_array_equal(score, score_fn(x.at[:, 1].set(99.0), t))
    whole = model.score_fn(params)(x, t)
    np.testing.assert_array_equal(whole, model.score_fn(params, observed=jnp.ones((4, 2)))(x, t))
    assert (whole[:, 0] != score[:, 0]).all()


def test_a_model_of_complete_data_takes_no_mask():
    config = points_config()
    model = networks.noise_model(config, sde_lib.VP(), (2,))
    with pytest.raises(ValueError, match="observed is given, but the model was trained on complet"):
        model.score_fn({}, observed=jnp.ones((1, 2)))
