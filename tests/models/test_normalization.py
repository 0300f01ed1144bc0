"""models.normalization against flax's, and against double precision."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.normalization import GroupNorm, means_by_product, means_by_shape

X = jax.random.normal(jax.random.key(0), (2, 4, 6, 8))
SCALE, SHIFT = jax.random.normal(jax.random.key(1), (2, 2, 8))
PARAMS = {"scale": jnp.linspace(-1.0, 2.0, 8), "bias": jnp.linspace(0.0, 1.0, 8)}


def ours(params, x, *modulation):
    return jnp.asarray(GroupNorm(4, 1e-5).apply({"params": params}, x, *modulation))


def flax_s(params, x, scale=0.0, shift=0.0):
    scale, shift = (jnp.broadcast_to(m, (2, 8))[:, None, None] for m in (scale, shift))
    module = nn.GroupNorm(4, epsilon=1e-5, use_fast_variance=False)
    y = jnp.asarray(module.apply({"params": params}, x))
    return y * (1 + scale) + shift


def exact(x, groups, epsilon):
    shape = x.shape
    x = np.asarray(x, np.float64).reshape(len(x), -1, groups, shape[-1] // groups)
    y = (x - x.mean((1, 3), keepdims=True)) / np.sqrt(x.var((1, 3), keepdims=True) + epsilon)
    return y.reshape(shape)


@pytest.mark.parametrize("modulation", [(), (SCALE, SHIFT)])
def test_values_and_derivatives_equal_those_of_flax(modulation):
    def derivatives(f):
        def loss(*xs):
            return jnp.sum(jnp.sin(f(*xs)))

        gradient = jax.grad(loss, tuple(range(2 + len(modulation))))
        xs = PARAMS, X, *modulation
        return loss(*xs), gradient(*xs), jax.jvp(gradient, xs, xs)

    found, expected = (jax.jit(derivatives, static_argnums=0)(f) for f in (ours, flax_s))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_a_large_mean_does_not_cost_precision(mean):
    params = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    x = X + mean
    np.testing.assert_allclose(ours(params, x), exact(x, 4, 1e-5), rtol=1e-5, atol=2e-6)


def test_an_outlier_does_not_cost_precision():
    """Such as a corner that was padded with zeros."""
    x = jax.random.normal(jax.random.key(2), (2, 64, 64, 8)).at[:, 0, 0].set(100.0)
    params = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    np.testing.assert_allclose(ours(params, x), exact(x, 4, 1e-5), rtol=1e-5, atol=2e-6)


def test_a_constant_is_normalised_to_the_bias():
    expected = jnp.broadcast_to(PARAMS["bias"], X.shape)
    np.testing.assert_allclose(ours(PARAMS, jnp.full(X.shape, 1.7)), expected, atol=1e-6)


@pytest.mark.parametrize("modulation", [(), (SCALE, SHIFT)])
def test_statistics_of_bfloat16_are_in_float32(modulation):
    given = [m.astype(jnp.bfloat16) for m in (3 + X, *modulation)]
    y = ours(PARAMS, *given)
    assert y.dtype == jnp.bfloat16
    exact_ones = [m.astype(jnp.float32) for m in given]
    np.testing.assert_array_equal(y, ours(PARAMS, *exact_ones).astype(jnp.bfloat16))


def test_parameters_are_named_and_initialised_as_flax_s():
    variables = (m.init(jax.random.key(0), X) for m in (GroupNorm(4), nn.GroupNorm(4)))
    jax.tree.map(np.testing.assert_array_equal, *variables)


@pytest.mark.parametrize("groups", [0, 3])
def test_groups_divide_the_channels(groups):
    with pytest.raises(ValueError, match=f"8 channels cannot be normalised in {groups} groups"):
        GroupNorm(groups).init(jax.random.key(0), X)


@pytest.mark.parametrize("shape", [(2, 24, 8), (2, 2, 3, 4, 8)])
def test_series_and_volumes_are_normalised_over_every_axis(shape):
    x, params = X.reshape(shape), {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    np.testing.assert_allclose(ours(params, x), exact(x, 4, 1e-5), atol=1e-5)


def test_means_of_groups_are_a_product_on_accelerators_alone():
    x = jax.random.normal(jax.random.key(2), (3, 24))
    np.testing.assert_allclose(means_by_product(x, 6), means_by_shape(x, 6), rtol=1e-6, atol=1e-7)
    traced = jax.jit(ours).trace(PARAMS, X)
    found = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert {name: text.count("stablehlo.dot_general") for name, text in found.items()} == {
        "cpu": 0,
        "cuda": 3,
        "tpu": 3,
    }
    assert "stablehlo.reshape" in found["cpu"]
    assert "stablehlo.reshape" not in found["tpu"] + found["cuda"]
