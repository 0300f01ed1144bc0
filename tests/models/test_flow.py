"""Tests of the coupling flow: its inverse, its log-determinant, and its start as the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.flow import CouplingFlow, squeeze, unsqueeze

SHAPES = [(5,), (4, 2, 1)]
SIDES = [(4, 1), (4, 2, 3), (2, 2, 4, 1)]


def flow(shape, num_layers=4):
    """A flow, its first variables, and data of this shape."""
    network = CouplingFlow(nf=8, num_layers=num_layers)
    x = jax.random.normal(jax.random.key(0), (3, *shape))
    return network, jax.jit(network.init)(jax.random.key(1), x), x


def moved(variables):
    """The variables with noise on all of them."""

    def move(leaf):
        noise = jax.random.normal(jax.random.key(leaf.size), leaf.shape)
        return leaf + 0.3 * noise / np.sqrt(leaf.shape[0])

    return jax.tree.map(move, variables)


@pytest.mark.thorough
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_flow_starts_as_the_identity_to_the_last_bit(shape):
    network, variables, x = flow(shape)
    for inverse in (False, True):
        y, log_det = jax.jit(network.apply, static_argnums=2)(variables, x, inverse)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(log_det, 0)


@pytest.mark.thorough
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inverse_and_log_determinant_are_those_of_the_map(shape):
    network, variables, x = flow(shape)
    variables = moved(variables)

    @jax.jit
    def run(x):
        y, log_det = network.apply(variables, x)
        back, minus = network.apply(variables, y, True)
        jacobian = jax.vmap(jax.jacfwd(lambda x: network.apply(variables, x[None])[0][0]))(x)
        size = x[0].size
        return y, log_det, back, minus, jacobian.reshape(len(x), size, size)

    y, log_det, back, minus, jacobian = run(x)
    assert np.abs(y - x).max() > 0.1
    np.testing.assert_allclose(back, x, atol=1e-5)
    np.testing.assert_allclose(minus, -log_det, atol=1e-5)
    np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], log_det, atol=2e-5)


@pytest.mark.thorough
def test_every_number_is_moved():
    network, variables, x = flow((5,))
    y, _ = network.apply(moved(variables), x)
    assert (np.abs(y - x).max(axis=0) > 1e-3).all()


def test_no_layers_are_the_identity_without_parameters():
    network, variables, x = flow((4, 4, 1), num_layers=0)
    assert not jax.tree.leaves(variables)
    np.testing.assert_array_equal(network.apply(variables, x)[0], x)


@pytest.mark.parametrize("shape", SIDES, ids=str)
def test_squeezing_makes_channels_of_blocks(shape):
    x = jnp.arange(np.prod(shape)).reshape(1, *shape)
    y = squeeze(x)
    assert y.shape[-1] == shape[-1] * 2 ** (len(shape) - 1)
    np.testing.assert_array_equal(unsqueeze(y, x.shape), x)
    block = x[(0, *(slice(0, 2) for _ in shape[:-1]))]
    np.testing.assert_array_equal(y.reshape(-1, y.shape[-1])[0], block.ravel())


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1,), "two numbers a sample"), ((3, 1), "even sides"), ((4, 3, 2), r"images .* \(4, 3, 2\)")],
)
def test_odd_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        flow(shape)
