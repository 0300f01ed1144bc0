"""Weights for networks under test, made without compiling their initialisation."""

import functools

import jax
import numpy as np


def shapes(network, *inputs):
    """The parameters' shapes."""
    flat, structure = jax.tree.flatten(inputs)
    given = tuple(
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf
        for leaf in flat
    )
    return jax.tree.map(lambda leaf: leaf, _traced(network, given, structure))


@functools.lru_cache(maxsize=64)
def _traced(network, flat, structure):
    arrays = [leaf for leaf in flat if hasattr(leaf, "shape")]

    def init(*arrays):
        rest = iter(arrays)
        inputs = [next(rest) if hasattr(leaf, "shape") else leaf for leaf in flat]
        return network.init(jax.random.key(0), *jax.tree.unflatten(structure, inputs))

    return jax.eval_shape(init, *arrays)["params"]


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
