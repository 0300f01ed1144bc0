import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.ncsnv2 import NCSN, NCSNv2, NCSNv2At128, NCSNv2At256

X = jax.random.normal(jax.random.key(0), (1, 4, 4, 1))


def count(network, size):
    x = jnp.zeros((1, size, size, 3))
    return sum(leaf.size for leaf in jax.tree.leaves(weights.shapes(network, x, jnp.ones(1))))


def test_parameter_counts():
    """NCSNv2's is the published one; the others were summed by hand, layer by layer."""
    assert count(NCSNv2(), 32) == 33_970_563
    assert count(NCSN(), 32) == 34_428_675
    assert count(NCSN(num_scales=232), 32) == 44_828_931
    assert count(NCSNv2At128(), 128) == 83_445_379
    assert count(NCSNv2At256(), 256) == 94_132_611


def test_ncsnv2_s_labels_do_no_more_than_scale_the_output():
    plain = NCSNv2(nf=4, scale_by_sigma=False, sigma_max=1.0, num_scales=3, centered=True)
    scaled = plain.clone(scale_by_sigma=True, centered=False)

    params = {"params": weights.random(plain, X, jnp.ones(1))}

    @jax.jit
    def run(params, x, label):
        return plain.apply(params, x, label), scaled.apply(params, (x + 1) / 2, label)

    outputs = [run(params, X, jnp.array([label])) for label in (0.0, 0.5, 2.0)]
    for (one, divided), sigma in zip(outputs, (1.0, 10**-0.5, 0.01), strict=True):
        np.testing.assert_array_equal(one, outputs[0][0])
        np.testing.assert_allclose(divided, one / sigma, rtol=1e-4)


def test_every_normalisation_of_ncsn_has_the_parameters_of_its_level():
    """At level 2, and a quarter of the way from 1 to 2, NCSN is a network of that one level."""
    network, one_level = NCSN(nf=4, num_scales=4), jax.jit(NCSN(nf=4, num_scales=1).apply)
    params = weights.random(network, X, jnp.ones(1))
    x = jnp.concatenate([X, X])
    outputs = jax.jit(network.apply)({"params": params}, x, jnp.array([2.0, 1.25]))

    def at(rows):
        def pick(path, leaf):
            return rows @ leaf if "InstanceNormPlus" in jax.tree_util.keystr(path) else leaf

        return {"params": jax.tree_util.tree_map_with_path(pick, params)}

    for output, row in zip(outputs, ([0, 0, 1, 0], [0, 0.75, 0.25, 0]), strict=True):
        expected = one_level(at(np.array([row], "f4")), X, jnp.zeros(1))[0]
        np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01


@pytest.mark.parametrize(
    ("network", "size", "multiple"),
    [(NCSNv2(), 33, 2), (NCSN(), 27, 2), (NCSNv2At128(), 126, 4), (NCSNv2At256(), 252, 8)],
)
def test_sizes_that_cannot_be_halved_are_refused(network, size, multiple):
    with pytest.raises(ValueError, match=f"{size} x {size} pixels .* multiples of {multiple}"):
        count(network, size)
