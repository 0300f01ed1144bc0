from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from experiments.commands import plan
from models.dit import (
    CONDITIONING,
    SIZES,
    DiT,
    DiTBlock,
    patchify,
    position_embedding,
    unpatchify,
)

SMALL = DiT(hidden_size=8, depth=1, num_heads=2, centered=True)
X = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
LABELS = jnp.array([0.5, 300.0])


FROM_C = "['modulation']['kernel']"


@partial(jax.jit, static_argnames=("network", "train"))
def run(network, params, x, labels, **options):
    return network.apply({"params": params}, x, labels, **options)


def published(size, patch_size, **fields):
    """A network, and its parameters' shapes, for 32 x 32 latents of ImageNet."""
    fields = SIZES[size] | {"num_classes": 1000, "learned_variance": True} | fields
    network = DiT(patch_size=patch_size, **fields)
    return network, weights.shapes(network, jnp.zeros((1, 32, 32, 4)), jnp.ones(1))


@pytest.mark.parametrize(
    ("size", "count"),
    [("S", 32_963_360), ("B", 130_512_416), ("L", 458_102_816), ("XL", 675_129_632)],
)
def test_parameters_are_the_published(size, count):
    """The published count includes position embeddings and a null class; ours are no parameters."""
    _, params = published(size, patch_size=2)
    width = SIZES[size]["hidden_size"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count - (16 * 16 + 1) * width


@pytest.mark.parametrize(
    ("size", "patch_size", "gflops"),
    [
        *[("S", 4, 1.4), ("B", 4, 5.6), ("L", 4, 19.7), ("XL", 4, 29.1)],
        *[("S", 2, 6.1), ("S", 8, 0.4), ("B", 8, 1.4)],
    ],
)
def test_arithmetic_is_the_published(size, patch_size, gflops):
    """All blocks cost the same, so networks of 1 and 2 blocks give the cost of any depth."""

    def costs(depth):
        network, params = published(size, patch_size, depth=depth)

        def call(params, x, labels, classes):
            return network.apply({"params": params}, x, labels, class_labels=classes)

        inputs = jnp.zeros((1, 32, 32, 4)), jnp.ones(1), jnp.zeros(1, int)
        return plan.costs(jax.jit(call).lower(params, *inputs))

    one, two = costs(1), costs(2)
    assert round((one + (SIZES[size]["depth"] - 1) * (two - one)) / 2e9, 1) == gflops


def test_patches_are_cut_row_by_row_and_put_together_again():
    tokens = patchify(X, 2)
    assert tokens.shape == (2, 6, 12)
    np.testing.assert_array_equal(tokens[:, 4], X[:, 2:4, 2:4].reshape(2, 12))
    np.testing.assert_array_equal(unpatchify(tokens, (2, 3), 2), X)


def test_products_of_positions_are_cosines_of_their_distances():
    embedding = position_embedding((3, 4), 16)
    row, column = np.divmod(np.arange(12), 4)
    frequencies = np.array([1.0, 0.1, 0.01, 0.001])
    distances = np.stack([n[:, None] - n for n in (row, column)])[..., None]
    expected = np.cos(distances * frequencies).sum((0, -1))
    np.testing.assert_allclose(embedding @ embedding.T, expected, atol=1e-5)
    assert len(np.unique(embedding[row == 0, :8], axis=0)) == 4  # columns come first


@pytest.mark.parametrize("context", [None, (jnp.ones((2, 3, 8)), jnp.ones((2, 3), bool))])
def test_a_block_starts_as_the_identity(context):
    block, x = DiTBlock(2, 4.0, dropout=0.0), X.reshape(2, 9, 8)

    @jax.jit
    def run(key):
        return block.init_with_output(key, x, x[:, 0], None, context, False)[0]

    np.testing.assert_array_equal(run(jax.random.key(0)), x)


@pytest.mark.thorough
def test_the_output_starts_at_zero_with_channels_for_the_variance():
    network = SMALL.clone(learned_variance=True)

    @jax.jit
    def run(key):
        output, variables = network.init_with_output(key, X, LABELS)
        return output, network.apply(variables, X, LABELS, features=True)

    output, (features, c) = run(jax.random.key(0))
    np.testing.assert_array_equal(output, np.zeros((2, 4, 6, 6)))
    assert (features.shape, c.shape) == ((2, 2, 3, 8), (2, 8))
    assert np.abs(features).max(-1).min() > 0.1


def test_formula_with_constant_blocks():
    """The block adds the bias of its MLP times a gate of 2; the last scale and shift are 1 and 3.

    The images have 8 numbers a patch, as many as features.
    """
    x = X[:, :4, :4, :2]
    bias = np.arange(8, dtype="f4") ** 2
    values = {
        "patches/kernel": np.eye(8, dtype="f4"),
        "DiTBlock_0/modulation/bias": np.repeat([0, 0, 0, 0, 0, 2], 8).astype("f4"),
        "DiTBlock_0/perceptron/Dense_1/bias": bias,
        "modulation/bias": np.repeat([1, 3], 8).astype("f4"),
        "output/kernel": np.eye(8, dtype="f4"),
    }
    params = weights.zeros_but(values, SMALL, x, LABELS)
    h = np.float64(patchify(x, 2)) + position_embedding((2, 2), 8) + 2 * bias
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    output = run(SMALL, params, x, LABELS)
    np.testing.assert_allclose(output, unpatchify(2 * h + 3, (2, 2), 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parametrization", ["edm", "epsilon"])
def test_neighbouring_noise_levels_give_different_outputs(parametrization):
    """EDM's labels lie in [-1.6, 1.1], times in [0, 999]: neighbours of 18 levels differ.

    Measured, of what the labels do in all: EDM's by 2% at least.
    """
    labels = jnp.linspace(0.01, 999.0, 18)
    if parametrization == "edm":
        labels = jnp.linspace(np.log(0.002), np.log(80.0), 18) / 4
    x = jnp.tile(X[:1], (18, 1, 1, 1))
    params = weights.random(SMALL, x, labels)
    outputs = run(SMALL, params, x, labels)
    steps = np.abs(np.diff(outputs, axis=0)).max((1, 2, 3))
    assert steps.min() > 0.01 * np.ptp(outputs, axis=0).max()


@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_class_conditioning_in_every_way_and_unconditional_without_a_class(conditioning):
    plain = SMALL.clone(conditioning=conditioning)
    network = plain.clone(num_classes=3)
    params = weights.random(network, X, LABELS)
    others = {layer: value for layer, value in params.items() if layer != "class_embedding"}
    # Modulation that does not depend on c leaves what attention sees of it.
    fixed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (jax.tree_util.keystr(path)[-24:] != FROM_C), params
    )
    classes = jnp.array([0, 1]), jnp.array([2, 2])
    first, second = (run(network, params, X, LABELS, class_labels=y) for y in classes)
    still_first, still_second = (run(network, fixed, X, LABELS, class_labels=y) for y in classes)
    none = run(network, params, X, LABELS, class_labels=jnp.array([-1, -1]))
    expected = run(plain, others, X, LABELS)
    np.testing.assert_allclose(none, expected, rtol=1e-4, atol=1e-5)
    least = 1e-2 * np.abs(expected).max()
    for one, other in ((first, second), (first, none)):
        assert np.abs(one - other).max((1, 2, 3)).min() > least
    by_tokens = np.abs(still_first - still_second).max((1, 2, 3))
    assert (by_tokens > 1e-4).all() == (conditioning != "adaln_zero"), by_tokens


def test_dropout_acts_in_training_only():
    network = SMALL.clone(dropout=0.5)
    params = weights.random(network, X, LABELS)
    first, second = (
        run(network, params, X, LABELS, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in range(2)
    )
    quiet = run(network, params, X, LABELS, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(quiet, run(SMALL, params, X, LABELS), rtol=1e-6)
    assert np.abs(first - second).max() > 0.1 * np.abs(quiet).max()


def test_uncentred_data_is_centred_inside():
    params = weights.random(SMALL, X, LABELS)
    centred = run(SMALL, params, 2 * X - 1, LABELS)
    uncentred = run(SMALL.clone(centered=False), params, X, LABELS)
    np.testing.assert_allclose(centred, uncentred, rtol=1e-5, atol=1e-6)


def test_patches_that_do_not_divide_the_image_are_refused():
    with pytest.raises(ValueError, match=r"4 x 6 pixels cannot be cut into patches of .* = 4"):
        weights.shapes(SMALL.clone(patch_size=4), X, LABELS)


def test_a_null_class_has_an_embedding_of_its_own():
    """Class -1 is the row after the last class."""
    network = SMALL.clone(num_classes=3, null_class=True)
    params = weights.random(network, X, LABELS)
    assert params["class_embedding"]["kernel"].shape == (4, 8)
    none = run(network, params, X, LABELS, class_labels=jnp.array([-1, 1]))
    wider = SMALL.clone(num_classes=4)
    as_class = run(wider, params, X, LABELS, class_labels=jnp.array([3, 1]))
    np.testing.assert_allclose(none, as_class, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
def test_blocks_with_embeddings_of_their_own_are_the_shared_ones_where_these_are_equal():
    shared = SMALL.clone(depth=2, num_classes=3)
    own, classes = shared.clone(shared_embedding=False), {"class_labels": jnp.array([0, 2])}
    params = weights.random(shared, X, LABELS)
    embedder = {name: params[name] for name in ("Dense_0", "Dense_1", "class_embedding")}
    expected = run(shared, params, X, LABELS, **classes)
    both = params | {"LabelEmbedding_0": embedder}
    np.testing.assert_allclose(run(own, both, X, LABELS, **classes), expected, rtol=1e-5, atol=1e-6)
    other = params | {"LabelEmbedding_0": jax.tree.map(lambda leaf: 2 * leaf, embedder)}
    changed = run(own, other, X, LABELS, **classes)
    assert np.abs(changed - expected).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shared_embedding": False, "text": "bytes"}, "shared_embedding is False: that is for"),
        ({"frequency_shift": 128}, r"config\.model\.frequency_shift"),
        ({"mlp_epsilon": 0.0}, r"config\.model\.mlp_epsilon"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SMALL.clone(**fields)


@pytest.mark.thorough
@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_scanned_blocks_are_the_same_network_in_a_shorter_program(conditioning):
    options = {"hidden_size": 8, "num_heads": 2, "depth": 3, "conditioning": conditioning}
    network, scanned = (DiT(**options, scan_blocks=scan) for scan in (False, True))
    params = weights.random(network, X, LABELS)

    def loss(params, network):
        return jnp.sum(network.apply({"params": params}, X, LABELS) ** 2)

    compared = [jax.jit(jax.value_and_grad(partial(loss, network=n))) for n in (network, scanned)]
    (value, gradient), (other, other_gradient) = (made(params) for made in compared)
    np.testing.assert_allclose(value, other, rtol=1e-6)
    assert jax.tree.structure(gradient) == jax.tree.structure(other_gradient)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), gradient, other_gradient
    )
    dots = [made.lower(params).as_text().count("dot_general") for made in compared]
    assert dots[1] < dots[0] / 2


@pytest.mark.thorough
def test_scanned_blocks_drop_out_by_the_key_of_the_call():
    network = DiT(hidden_size=8, num_heads=2, depth=2, dropout=0.5, scan_blocks=True)
    params = weights.random(network, X, LABELS)
    made = [
        network.apply({"params": params}, X, LABELS, True, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(made[0], made[1])
    assert np.abs(made[0] - made[2]).max() > 1e-3
