"""Networks for images take series and volumes too, with the same layers along every side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.ddpm import DDPM
from models.ncsnpp import NCSNpp

SIDES = {"series": (8,), "wide images": (2, 8), "volumes": (2, 4, 2)}
NETWORKS = {
    "ddpm": DDPM(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=()),
    "ncsnpp": NCSNpp(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=()),
    "skips": NCSNpp(
        nf=8,
        ch_mult=(1, 2),
        num_res_blocks=1,
        attn_resolutions=(),
        resblock_type="ddpm",
        progressive="residual",
        progressive_input="input_skip",
        embedding_type="positional",
        scale_by_sigma=False,
    ),
}


@pytest.mark.parametrize("kind", SIDES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_any_number_of_sides_sees_every_position(name, kind):
    """The output is of the input's shape, and its middle depends on inputs on all sides of it."""
    x, labels = jnp.ones((2, *SIDES[kind], 3)), jnp.array([0.5, 2.0])
    params = weights.random(NETWORKS[name], x, labels)

    @jax.jit
    def middle_and_gradient(x):
        def middle(x):
            output = NETWORKS[name].apply({"params": params}, x, labels)
            assert output.shape == x.shape
            return output[0][tuple(side // 2 for side in x.shape[1:-1])].sum()

        return jax.grad(middle)(x)

    gradient = middle_and_gradient(x)
    assert np.abs(gradient[1]).max() == 0  # another sample
    for axis in range(len(SIDES[kind])):
        others = tuple(i for i in range(gradient.ndim - 1) if i != axis)
        assert (np.abs(gradient[0]).max(others) > 0).all()


def lifted(params):
    """Parameters that ignore a new first side: kernels have one non-zero row along it."""

    def lift(path, leaf):
        if path[-1].key != "kernel" or leaf.ndim < 3:
            return leaf
        return jnp.pad(leaf[None], [(leaf.shape[0] // 2,) * 2, *[(0, 0)] * leaf.ndim])

    return jax.tree_util.tree_map_with_path(lift, params)


@pytest.mark.parametrize("sides", [(8,), (4, 8)])
@pytest.mark.parametrize("name", ["ddpm", "ncsnpp"])
def test_equal_slices_are_seen_as_one_slice(name, sides):
    """A stack of equal series or images gives the stack of its network's outputs."""
    network = NETWORKS[name].clone(parent=None)
    if name == "ncsnpp":  # without a filter, which sees the zeros around the stack
        network = network.clone(parent=None, fir=False, progressive_input="none")
    x, labels = jax.random.normal(jax.random.key(0), (2, *sides, 3)), jnp.array([0.5, 2.0])
    params = weights.random(network, x, labels)
    apply = jax.jit(network.apply)
    expected = apply({"params": params}, x, labels)
    stack = jnp.broadcast_to(x[:, None], (2, 2, *x.shape[1:]))
    found = apply({"params": lifted(params)}, stack, labels)
    np.testing.assert_allclose(found, jnp.broadcast_to(expected[:, None], found.shape), atol=2e-5)
