import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import probes
from sde_lib.batch import sample_keys

KEYS = sample_keys(jax.random.key(0), 400)


@pytest.mark.thorough
@pytest.mark.parametrize(("probe", "fourth"), [("rademacher", 1), ("gaussian", 3)])
def test_probes_are_white_and_each_sample_s_own(probe, fourth):
    v = probes.draw(KEYS, probe, 50, (400, 3))
    covariance = np.einsum("nbi,nbj->ij", v, v) / (50 * 400)
    np.testing.assert_allclose(covariance, np.eye(3), atol=0.05)
    assert jnp.mean(v**4) == pytest.approx(fourth, rel=0.05)
    np.testing.assert_array_equal(probes.draw(KEYS[7:9], probe, 50, (2, 3)), v[:, 7:9])


@pytest.mark.thorough
def test_hierarchical_probes_cancel_the_errors_of_neighbours():
    """Two cancel the terms between the fields of a checkerboard, four those within 2 x 2 fields."""
    shape, (i, j) = (400, 8, 8, 1), np.indices((8, 8)).reshape(2, 64)
    v = np.asarray(probes.draw(KEYS, "hierarchical", 4, shape)).reshape(4, 400, 64)
    rows, columns = ((index[:, None] - index) % 2 == 0 for index in (i, j))
    for n, together in ((2, rows == columns), (4, rows & columns)):
        outer = np.einsum("nbi,nbj->bij", v[:n], v[:n]) / n
        np.testing.assert_array_equal(outer != 0, np.broadcast_to(together, outer.shape))
        np.testing.assert_array_equal(np.abs(outer) == 1, outer != 0)
    one = probes.draw(KEYS, "hierarchical", 1, shape)
    np.testing.assert_array_equal(one, probes.draw(KEYS, "rademacher", 1, shape))


def test_as_many_hierarchical_probes_as_values_are_exact_and_more_begin_anew():
    v = np.asarray(probes.draw(KEYS[:2], "hierarchical", 70, (2, 8, 8)))
    outer = np.einsum("nbi,nbj->bij", *[v[:64].reshape(64, 2, 64)] * 2) / 64
    np.testing.assert_array_equal(outer, np.broadcast_to(np.eye(64), (2, 64, 64)))
    assert np.abs(np.mean(v[0] * v[64])) < 0.5


def test_exact_probes_are_the_basis():
    v = probes.draw(KEYS[:2], "exact", 1, (2, 2, 3))
    np.testing.assert_array_equal(v[:, 1].reshape(6, 6), np.eye(6))


@pytest.mark.parametrize(
    ("probe", "n", "message"), [("gausian", 1, "did you mean 'gaussian'"), ("exact", 0, "n_probes")]
)
def test_other_probes_are_refused(probe, n, message):
    with pytest.raises(ValueError, match=message):
        probes.draw(KEYS, probe, n, (400, 3))
