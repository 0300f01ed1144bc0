import itertools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import models
from configs import cifar10
from models.ncsnpp import NCSNpp

SMALL = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}
X = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LABELS = jnp.array([0.5, 3.0])


def count(config):
    size = config.data.image_size
    x = jnp.zeros((1, size, size, config.data.num_channels))
    variables = jax.eval_shape(models.create(config).init, jax.random.key(0), x, jnp.ones(1))
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_parameter_counts_are_the_published_ones():
    assert count(cifar10.get_config("ve_ncsnpp_continuous")) == 62_758_915
    assert count(cifar10.get_config("vp_ddpmpp_continuous")) == 61_804_419
    deep = cifar10.get_config("ve_ncsnpp_continuous")
    deep.model.num_res_blocks = 8
    assert count(deep) == 107_587_075


OPTIONS = {
    "resblock_type": ("ddpm", "biggan"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "fir": (True, False),
    "embedding_type": ("fourier", "positional"),
}


@pytest.mark.parametrize("values", [*itertools.product(*OPTIONS.values())], ids=str)
def test_every_combination_builds(values):
    fields = dict(zip(OPTIONS, values, strict=True))
    network = NCSNpp(**SMALL, **fields)
    output, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), X, LABELS)
    assert output.shape == X.shape


@pytest.mark.parametrize(
    ("resblock_type", "progressive", "progressive_input", "others"),
    [
        ("ddpm", "none", "residual", {}),
        ("ddpm", "residual", "input_skip", {"fir": False}),
        ("ddpm", "output_skip", "none", {"resamp_with_conv": False}),
        ("biggan", "none", "none", {"conditional": False, "skip_rescale": False}),
        ("biggan", "output_skip", "input_skip", {"progressive_combine": "sum"}),
        ("biggan", "residual", "residual", {"embedding_type": "positional"}),
    ],
)
def test_combinations_run_and_train(resblock_type, progressive, progressive_input, others):
    """Every parameter but the Fourier frequencies gets a gradient."""
    fields = {"progressive_combine": "cat", "init_scale": 1.0} | others
    network = NCSNpp(
        **SMALL,
        resblock_type=resblock_type,
        progressive=progressive,
        progressive_input=progressive_input,
        **fields,
    )
    params = jax.jit(network.init)(jax.random.key(0), X, LABELS)["params"]
    loss = lambda params: jnp.sum(network.apply({"params": params}, X, LABELS) ** 2)  # noqa: E731
    grads = jax.jit(jax.grad(loss))(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        assert (np.abs(grad).max() > 0) == ("'W'" not in name), name


def test_scale_by_sigma_divides_by_the_label_or_by_its_level():
    for embedding, labels, sigma in (
        ("fourier", LABELS, LABELS),
        ("positional", jnp.array([0.0, 999.0]), jnp.array([50.0, 0.01])),
    ):
        plain = NCSNpp(**SMALL, embedding_type=embedding, scale_by_sigma=False, init_scale=1.0)
        scaled = NCSNpp(**SMALL, embedding_type=embedding, scale_by_sigma=True, init_scale=1.0)
        variables = jax.jit(plain.init)(jax.random.key(0), X, labels)
        expected = plain.apply(variables, X, labels) / sigma[:, None, None, None]
        np.testing.assert_allclose(scaled.apply(variables, X, labels), expected, rtol=1e-4)


def test_unconditional_ignores_its_labels():
    network = NCSNpp(**SMALL, conditional=False, scale_by_sigma=False, init_scale=1.0)
    variables = jax.jit(network.init)(jax.random.key(0), X, LABELS)
    outputs = [network.apply(variables, X, labels) for labels in (LABELS, 2 * LABELS)]
    np.testing.assert_array_equal(*outputs)


def test_dropout_acts_in_training_only():
    network = NCSNpp(**SMALL, dropout=0.5, init_scale=1.0)
    variables = jax.jit(network.init)(jax.random.key(0), X, LABELS)
    first, second = (
        network.apply(variables, X, LABELS, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (1, 2)
    )
    assert np.abs(first - second).max() > 0
    np.testing.assert_array_equal(
        network.apply(variables, X, LABELS), network.apply(variables, X, LABELS)
    )


def test_uncentred_data_is_centred_inside():
    centred, uncentred = (NCSNpp(**SMALL, init_scale=1.0, centered=c) for c in (True, False))
    variables = jax.jit(centred.init)(jax.random.key(0), X, LABELS)
    np.testing.assert_allclose(
        centred.apply(variables, 2 * X - 1, LABELS), uncentred.apply(variables, X, LABELS)
    )


def test_a_size_that_cannot_be_halved_is_refused():
    network = NCSNpp(**(SMALL | {"ch_mult": (1, 1, 1, 1)}))
    with pytest.raises(ValueError, match="28 x 28 pixels cannot be halved 3 times"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)), jnp.ones(1))


@pytest.mark.slow
@pytest.mark.parametrize("variant", cifar10.VARIANTS)
def test_a_published_network_runs(variant):
    config = ml_collections.FrozenConfigDict(cifar10.get_config(variant))
    network = models.create(config)
    x = jnp.zeros((1, 32, 32, 3))
    variables = jax.jit(network.init)(jax.random.key(0), x, jnp.ones(1))
    assert np.isfinite(network.apply(variables, x, jnp.ones(1))).all()
