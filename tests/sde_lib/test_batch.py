import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib.batch import expand, fold_in, normal, sample_keys


def test_expand_appends_axes():
    assert expand(jnp.ones(3), jnp.ones((3, 4, 4, 1))).shape == (3, 1, 1, 1)
    assert expand(jnp.ones(()), jnp.ones((3, 4))).shape == (1, 1)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_sample_i_does_not_depend_on_its_batch(make_key):
    alone = normal(sample_keys(make_key(0), 1, 5), (1, 4, 2))
    beside = normal(sample_keys(make_key(0), 8), (8, 4, 2))
    np.testing.assert_array_equal(alone[0], beside[5])


@pytest.mark.thorough
def test_samples_and_steps_differ():
    keys = sample_keys(jax.random.key(0), 1000)
    draws = jnp.concatenate([normal(fold_in(keys, step), (1000, 3)) for step in range(2)])
    assert len(jnp.unique(draws)) > 0.99 * draws.size
    assert abs(float(draws.mean())) < 4 / np.sqrt(draws.size)
    assert abs(float(draws.std()) - 1) < 4 / np.sqrt(2 * draws.size)
