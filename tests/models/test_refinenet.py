import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.refinenet import (
    POOLS,
    ChainedPooling,
    ConvUnits,
    InstanceNormPlus,
    RefineBlock,
    ResidualBlock,
)

X = np.random.RandomState(0).standard_normal((3, 8, 8, 4)).astype("f4")
TAP = np.zeros((3, 3, 4, 4), "f4")  # a kernel of one tap: the identity, or a shift
TAP[1, 1] = np.eye(4)


def plain(x):
    return x


def run(layer, values, *inputs):
    """The output of a layer whose weights are zero, except for `values`."""
    return layer.apply({"params": weights.zeros_but(values, layer, *inputs)}, *inputs)


def pooled(x, reduce, fill):
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
    return reduce(windows, axis=(-2, -1))


@pytest.mark.parametrize(
    ("pool", "reduce", "fill"), [("max", np.max, -np.inf), ("mean", np.mean, 0.0)]
)
def test_chained_pooling_sums_what_is_pooled_once_and_twice(pool, reduce, fill):
    params = {"Conv_0/kernel": TAP, "Conv_1/kernel": 2 * TAP}
    y = run(ChainedPooling(jax.nn.relu, POOLS[pool]), params, X, plain)
    x = np.maximum(X, 0)
    once = pooled(x, reduce, fill)
    np.testing.assert_allclose(y, x + once + 2 * pooled(once, reduce, fill), rtol=1e-5)


def test_instance_norm_plus_is_its_formula_at_and_between_levels():
    labels = np.array([1.0, 0.25, 9.0], "f4")  # the last is beyond the levels, and held there
    random = np.random.RandomState(0)
    tables = {name: random.standard_normal((3, 4)) for name in ("gamma", "alpha", "beta")}
    rows = {
        name: np.stack([table[1], 0.75 * table[0] + 0.25 * table[1], table[2]])[:, None, None]
        for name, table in tables.items()
    }
    mean, variance = X.mean((1, 2), keepdims=True), X.var((1, 2), keepdims=True)
    m = mean - mean.mean(-1, keepdims=True)
    m /= np.sqrt(mean.var(-1, keepdims=True) + 1e-5)
    normalised = (X - mean) / np.sqrt(variance + 1e-5)
    y = InstanceNormPlus(3).apply({"params": tables}, X, labels)
    expected = rows["gamma"] * (normalised + rows["alpha"] * m) + rows["beta"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_at_a_level_the_interpolation_is_exact():
    norm, table = InstanceNormPlus(8), np.random.RandomState(0).standard_normal((8, 4))
    labels = np.array([0.0, 3.0, 7.0], "f4")
    y = norm.apply(
        {"params": dict.fromkeys(("gamma", "alpha"), 0 * table) | {"beta": table}}, X, labels
    )
    np.testing.assert_array_equal(y[:, 0, 0], table[[0, 3, 7]].astype("f4"))


def test_residual_blocks_with_zero_weights_are_their_skips():
    np.testing.assert_array_equal(run(ResidualBlock(4, jax.nn.elu, 2), {}, X, plain), X)
    np.testing.assert_array_equal(run(ConvUnits(2, jax.nn.elu), {}, X, plain), X)


def test_the_first_block_of_a_stage_halves_or_dilates():
    kernel = np.random.RandomState(1).standard_normal((1, 1, 4, 6)).astype("f4")
    halving = ResidualBlock(6, jax.nn.elu, shrink=True)
    y = run(halving, {"Conv_2/kernel": kernel}, X, plain)
    means = X.reshape(3, 4, 2, 4, 2, 4).mean((2, 4))
    np.testing.assert_allclose(y, means @ kernel[0, 0], rtol=1e-4, atol=1e-5)

    dilating = ResidualBlock(4, jax.nn.elu, dilation=4, shrink=True)
    y = run(dilating, {"Conv_2/kernel": np.roll(TAP, 1, axis=0)}, X, plain)
    np.testing.assert_allclose(y[:, :4], X[:, 4:], rtol=1e-6)
    np.testing.assert_array_equal(y[:, 4:], 0)


def test_both_branches_of_a_residual_block_are_dilated():
    """Two taps down the rows, two pixels each: the branch brings pixels from four rows below."""
    down = np.roll(TAP, 1, axis=0)
    y = run(
        ResidualBlock(4, plain, dilation=2),
        {"Conv_0/kernel": down, "Conv_1/kernel": 3 * down},
        X,
        lambda x: 2 * x,
    )
    expected = X.copy()
    expected[:, :4] += 12 * X[:, 4:]
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_refining_brings_maps_together_at_the_resolution_of_the_first():
    coarse = np.ones((3, 4, 4, 4), "f4") * np.arange(4, dtype="f4")
    params = {"Conv_0/kernel": TAP, "Conv_1/kernel": 2 * TAP, "Conv_1/bias": np.ones(4, "f4")}
    block = RefineBlock(4, jax.nn.relu, POOLS["max"], units=3)
    y = run(block, params, [X, coarse], plain)
    np.testing.assert_allclose(y, np.maximum(X + 2 * np.arange(4) + 1, 0), rtol=1e-5, atol=1e-6)


def test_every_convolution_of_refining_is_normalised_when_asked():
    """With a norm that returns ones, each map is a convolution of ones."""
    ones, bias = (lambda x: jnp.ones_like(x)), {"Conv_0/bias": np.full(4, 5.0, "f4")}
    params = bias | {"Conv_0/kernel": TAP, "Conv_1/kernel": 3 * TAP}
    params |= {f"ChainedPooling_0/Conv_{i}/kernel": 10 ** (i + 1) * TAP for i in range(2)}
    y = run(RefineBlock(4, plain, POOLS["max"]), params, [X, X], ones)
    np.testing.assert_allclose(y, 5 + 1 + 3 + 10 + 100, rtol=1e-6)
