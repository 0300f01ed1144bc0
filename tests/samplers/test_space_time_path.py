import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers.space_time_path import SpaceTimePath, split
from sde_lib.batch import sample_keys


def test_split_keeps_the_covariances_of_w_and_h():
    """Each part has Var W = length and Var(length H) = length^3 / 12; all else is independent."""
    part, length = 0.3, 2.0
    whole = np.sqrt(length) * np.eye(4)[0], np.sqrt(length**3 / 12) * np.eye(4)[1]
    first, second = split(whole, length, part, np.eye(4)[2:])
    rows = np.float64([*first, *second])
    lengths = np.array([part * length, (1 - part) * length])
    variances = np.column_stack([lengths, lengths**3 / 12]).ravel()
    np.testing.assert_allclose(rows @ rows.T, np.diag(variances), atol=1e-6)
    # Chen's relation: the integral of W over the whole is that over its parts.
    integral = [area + 0.5 * n * w for (w, area), n in zip((first, second), lengths, strict=True)]
    expected = whole[1] + 0.5 * length * whole[0]
    np.testing.assert_allclose(
        integral[0] + integral[1] + lengths[1] * first[0], expected, atol=1e-6
    )


@pytest.mark.thorough
def test_increments():
    times = np.array([0.0, 0.21, 0.5, 0.503, 1.0])

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(keys):
        path = SpaceTimePath(keys=keys, shape=(len(keys), 2))
        pairs = [*itertools.pairwise(times), (0.0, 0.5)]
        starts, ends = jnp.asarray(pairs, jnp.float32).T
        increment = jax.lax.map(lambda t: path.evaluate(*t, use_levy=True), (starts, ends))
        return increment.W, increment.H

    keys = sample_keys(jax.random.key(0), 4_000)
    w, h = run(keys)
    lengths = np.diff(times)[:, None]
    z = np.concatenate(
        [
            np.reshape(w[:4], (4, -1)) / np.sqrt(lengths),
            np.reshape(h[:4], (4, -1)) / np.sqrt(lengths / 12),
        ]
    )
    np.testing.assert_allclose(z @ z.T / z.shape[1], np.eye(8), atol=0.06)
    np.testing.assert_allclose(w[4], w[0] + w[1], atol=1e-5)
    np.testing.assert_array_equal(run(keys[::-1])[0], w[:, ::-1])
