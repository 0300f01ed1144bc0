import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import probes
from sde_lib.batch import sample_keys

KEYS = sample_keys(jax.random.key(0), 400)


@pytest.mark.parametrize(("probe", "fourth"), [("rademacher", 1), ("gaussian", 3)])
def test_probes_are_white_and_each_sample_s_own(probe, fourth):
    v = probes.draw(KEYS, probe, 50, (400, 3))
    covariance = np.einsum("nbi,nbj->ij", v, v) / (50 * 400)
    np.testing.assert_allclose(covariance, np.eye(3), atol=0.05)
    assert jnp.mean(v**4) == pytest.approx(fourth, rel=0.05)
    np.testing.assert_array_equal(probes.draw(KEYS[7:9], probe, 50, (2, 3)), v[:, 7:9])


def test_exact_probes_are_the_basis():
    v = probes.draw(KEYS[:2], "exact", 1, (2, 2, 3))
    np.testing.assert_array_equal(v[:, 1].reshape(6, 6), np.eye(6))


@pytest.mark.parametrize(
    ("probe", "n", "message"), [("gausian", 1, "did you mean 'gaussian'"), ("exact", 0, "n_probes")]
)
def test_other_probes_are_refused(probe, n, message):
    with pytest.raises(ValueError, match=message):
        probes.draw(KEYS, probe, n, (400, 3))
