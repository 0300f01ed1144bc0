"""Weights for networks under test, made without compiling their initialisation."""

import jax
import numpy as np


def shapes(network, *inputs):
    """The parameters' shapes."""
    return jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs))["params"]


def random(network, *inputs):
    """Parameters none of which is zero, of a size that keeps the variance."""
    return drawn(shapes(network, *inputs))


def drawn(tree):
    """Random arrays of the shapes in a pytree, of a size that keeps the variance."""
    generator = np.random.RandomState(0)

    def draw(leaf):
        value = generator.standard_normal(leaf.shape).astype("f4")
        return (value / np.sqrt(max(np.prod(leaf.shape[:-1]), 1))).astype("f4")

    return jax.tree.map(draw, tree)


def zeros_but(values, network, *inputs):
    """Zeros, but for those of `values`, {"a/b": array}."""

    def pick(path, leaf):
        name = "/".join(key.key for key in path)
        return values.get(name, np.zeros(leaf.shape, leaf.dtype))

    return jax.tree_util.tree_map_with_path(pick, shapes(network, *inputs))
