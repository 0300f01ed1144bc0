import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.ncsnv2 import NCSN, NCSNv2, NCSNv2At128, NCSNv2At256

X = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))


class Short(NCSNv2):
    """One stage of each kind: the first, one that halves the image, and a dilated one."""

    stages = (NCSNv2.stages[0], NCSNv2.stages[1], NCSNv2.stages[2])


class ShortNCSN(NCSN):
    stages = Short.stages


def count(network, size):
    x = jnp.zeros((1, size, size, 3))
    return sum(leaf.size for leaf in jax.tree.leaves(weights.shapes(network, x, jnp.ones(1))))


@pytest.mark.thorough
def test_parameter_count_at_256_pixels():
    """The sum of all layers, by hand. tests/configs counts the other networks."""
    assert count(NCSNv2At256(), 256) == 94_132_611


@pytest.mark.thorough
def test_labels_of_ncsnv2_only_scale_the_output():
    plain = Short(nf=4, scale_by_sigma=False, sigma_max=1.0, num_scales=3, centered=True)
    scaled = plain.clone(scale_by_sigma=True, centered=False)
    params = {"params": weights.random(plain, X, jnp.ones(2))}
    run = jax.jit(plain.apply)
    output = run(params, X, jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(output, run(params, X, jnp.array([0.5, 2.0])))
    divided = jax.jit(scaled.apply)(params, (X + 1) / 2, jnp.array([0.5, 2.0]))
    sigma = np.array([10**-0.5, 0.01])[:, None, None, None]
    np.testing.assert_allclose(divided, output / sigma, rtol=1e-3)


@pytest.mark.thorough
def test_every_normalisation_of_ncsn_has_the_parameters_of_its_level():
    """At level 2, and a quarter of the way from 1 to 2, NCSN is a network of that one level."""
    network, one_level = ShortNCSN(nf=4, num_scales=4), ShortNCSN(nf=4, num_scales=1)
    params = weights.random(network, X, jnp.ones(2))
    # Without jit: small operations, which the networks share, compile faster than their fusions.
    outputs = network.apply({"params": params}, X, jnp.array([2.0, 1.25]))

    def at(level):
        def pick(path, leaf):
            return level @ leaf if "InstanceNormPlus" in jax.tree_util.keystr(path) else leaf

        return {"params": jax.tree_util.tree_map_with_path(pick, params)}

    for i, level in enumerate(([0, 0, 1, 0], [0, 0.75, 0.25, 0])):
        expected = one_level.apply(at(np.array([level], "f4")), X, jnp.zeros(2))
        np.testing.assert_allclose(outputs[i], expected[i], rtol=1e-3, atol=1e-4)
        assert np.abs(outputs[1 - i] - expected[1 - i]).max() > 0.01


@pytest.mark.parametrize(
    ("network", "size", "multiple"),
    [(NCSNv2(), 33, 2), (NCSN(), 27, 2), (NCSNv2At128(), 126, 4), (NCSNv2At256(), 252, 8)],
)
def test_sizes_that_cannot_be_halved_are_refused(network, size, multiple):
    with pytest.raises(ValueError, match=f"{size} x {size} pixels .* multiple of {multiple}"):
        count(network, size)
