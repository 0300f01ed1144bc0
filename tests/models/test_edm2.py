import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import weights

from models.edm2 import (
    EDM2,
    MPConv,
    MPFourier,
    force_normalization,
    mp_concatenate,
    mp_silu,
    mp_sum,
    normalized_weight,
    pixel_norm,
)
from models.magnitudes import block_magnitudes

SMALL = EDM2(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), num_head_channels=8)
TINY = SMALL.clone(ch_mult=(1,), num_res_blocks=0, attn_resolutions=())
X = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LABELS = jnp.array([-0.5, 1.0])
NORMAL = np.random.RandomState(0).standard_normal((2, 500, 400)).astype("f4")


def power(x):
    return np.mean(np.square(x))


@pytest.mark.thorough
def test_the_layers_keep_the_magnitude_of_standard_normal_numbers():
    a, b = NORMAL
    assert power(mp_silu(a)) == pytest.approx(1, abs=0.02)
    for t in (0.3, 0.5):
        assert power(mp_sum(a, b, t)) == pytest.approx(1, abs=0.01)
        assert power(mp_concatenate(a, b[:, :100], t)) == pytest.approx(1, abs=0.01)
    layer = MPConv(300)
    params = {"kernel": 7 * NORMAL[1][:400, :300].astype("f4")}
    assert power(layer.apply({"params": params}, a)) == pytest.approx(1, abs=0.01)
    features = MPFourier(2000).init_with_output(jax.random.key(0), jnp.array([0.3, 0.9]))[0]
    assert power(features) == pytest.approx(1, abs=0.05)


def test_formulas():
    a, b = np.float32([[3, 4]]), np.float32([[1, 2, 2, 4]])
    np.testing.assert_allclose(pixel_norm(a), a / np.sqrt(12.5), rtol=1e-4)
    np.testing.assert_allclose(normalized_weight(np.float32([[3], [4]])).ravel(), [0.6, 0.8], 1e-4)
    np.testing.assert_allclose(mp_sum(a, 2 * a, 0.25), 1.25 * a / np.sqrt(0.625), rtol=1e-6)
    total = np.sqrt(6 / 0.625)
    expected = np.concatenate([0.75 / np.sqrt(2) * a, 0.25 / 2 * b], 1) * total
    np.testing.assert_allclose(mp_concatenate(a, b, 0.25), expected, rtol=1e-6)


@pytest.mark.thorough
def test_zeros_have_finite_gradients():
    for layer in (pixel_norm, normalized_weight):
        gradient = jax.grad(lambda x, layer=layer: layer(x).sum())(jnp.zeros((3, 2)))
        assert np.isfinite(gradient).all()


@pytest.mark.thorough
def test_a_weight_s_magnitude_changes_nothing_but_its_gradient():
    """The gradient is orthogonal to the weight, so that steps only turn and lengthen it."""
    layer, x, kernel = MPConv(5, 3), X, NORMAL[0][:27, :5].reshape(3, 3, 3, 5)

    def loss(kernel):
        return jnp.sum(jnp.sin(layer.apply({"params": {"kernel": kernel}}, x)))

    one, ten = layer.apply({"params": {"kernel": kernel}}, x), 10 * kernel
    np.testing.assert_allclose(layer.apply({"params": {"kernel": ten}}, x), one, atol=2e-3)
    gradient = jax.grad(loss)(kernel)
    inner = np.sum(gradient * kernel, (0, 1, 2)) / np.linalg.norm(kernel) ** 2
    np.testing.assert_allclose(inner, 0, atol=1e-2)


@pytest.mark.thorough
def test_forced_normalisation_changes_the_weights_and_no_output():
    """Equation 66: all kernels, and nothing else, have the norm sqrt(inputs) for each output."""
    params = jax.tree.map(lambda leaf: 3 * leaf, weights.random(TINY, X, LABELS))
    forced = force_normalization(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(forced):
        if path[-1].key == "kernel":
            rms = np.sqrt(np.mean(np.square(leaf), axis=tuple(range(leaf.ndim - 1))))
            np.testing.assert_allclose(rms, 1, rtol=1e-3)
        else:
            before = functools.reduce(lambda tree, key: tree[key.key], path, params)
            np.testing.assert_array_equal(leaf, before)
    one, other = (TINY.apply({"params": tree}, X, LABELS) for tree in (params, forced))
    np.testing.assert_allclose(one, other, atol=2e-3 * np.abs(one).max())


@pytest.mark.thorough
def test_activations_have_magnitudes_near_1_at_initialisation():
    """Of white noise and of images without detail, in each of the ten blocks."""
    network, labels = SMALL.clone(nf=32, num_head_channels=32), jnp.linspace(-1, 1, 16)
    x, random = jax.random.normal(jax.random.key(0), (16, 8, 8, 1)), np.random.default_rng(0)
    smooth = jnp.broadcast_to(jnp.sign(x[:, :1, :1]), x.shape)
    params = jax.tree.map(  # gains are numbers, and 0
        lambda leaf: random.standard_normal(leaf.shape, "f4") * bool(leaf.shape),
        weights.shapes(network, x, labels),
    )
    magnitudes = jax.jit(functools.partial(block_magnitudes, network, params))
    for images in (x, smooth):
        found = magnitudes(images, labels)
        assert len(found) == 10
        for block, sizes in found.items():
            assert float(jnp.mean(sizes)) == pytest.approx(1, abs=0.2), block


@pytest.mark.thorough
def test_the_output_starts_at_zero_and_training_lowers_the_loss():
    network = TINY.clone(num_classes=3, dropout=0.1, logvar_channels=4)
    classes = jnp.array([0, -1])
    params = jax.jit(network.init)(jax.random.key(0), X, LABELS)["params"]
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, key):
        def loss(params):
            options = {"class_labels": classes, "train": True, "rngs": {"dropout": key}}
            output = network.apply({"params": params}, X, LABELS, **options)
            return jnp.mean(jnp.square(output - X))

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value, gradient

    state, losses = optimizer.init(params), []
    for key in jax.random.split(jax.random.key(1), 30):
        params, state, value, gradient = step(params, state, key)
        losses.append(float(value))
    assert losses[0] == pytest.approx(float(jnp.mean(jnp.square(X))), rel=1e-6)
    assert losses[-1] < 0.7 * losses[0]
    fixed = ("freqs", "phases", "logvar_linear")
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        assert (np.abs(leaf).max() > 0) != any(part in name for part in fixed), name


@pytest.mark.thorough
def test_the_uncertainty_has_parameters_if_asked_for():
    shapes = weights.shapes(SMALL, X, LABELS)
    more = weights.shapes(SMALL.clone(logvar_channels=4), X, LABELS)
    assert more.keys() - shapes.keys() == {"logvar_fourier", "logvar_linear"}
    with pytest.raises(ValueError, match=r"set config\.model\.logvar_channels"):
        jax.eval_shape(lambda: SMALL.init(jax.random.key(0), X, LABELS, uncertainty=True))


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        ({}, 7, "7 x 7 pixels cannot be halved 1 times"),
        ({"nf": 9, "num_head_channels": 4}, 8, "18 channels .* into 4 attention heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, size, message):
    with pytest.raises(ValueError, match=message):
        weights.shapes(SMALL.clone(**fields), jnp.zeros((1, size, size, 3)), LABELS[:1])
