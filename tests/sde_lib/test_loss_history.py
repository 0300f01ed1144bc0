from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import loss_history


def test_it_keeps_the_last_terms_of_each_level():
    """A batch may have more losses of a level than its history holds."""
    rng, n_levels, n = np.random.default_rng(0), 5, 3
    history, expected = loss_history.empty(n_levels, n), [deque(maxlen=n) for _ in range(n_levels)]
    add = jax.jit(loss_history.add)
    for _ in range(6):
        level, terms = rng.choice(n_levels, 16, p=(0.5, 0.3, 0.1, 0.05, 0.05)), rng.normal(size=16)
        history = add(history, jnp.asarray(level), jnp.asarray(terms, jnp.float32))
        for k, term in zip(level, terms, strict=True):
            expected[k].append(term)
    for k in range(n_levels):
        there = min(int(history.counts[k]), n)
        kept = np.sort(np.asarray(history.terms[k]))
        assert there == len(expected[k])
        np.testing.assert_allclose(kept[np.abs(kept) > 0], np.sort(expected[k]), rtol=1e-6)


def test_probabilities_go_as_the_root_mean_square_once_the_history_is_full():
    terms = jnp.asarray([[1.0, -1.0], [3.0, 4.0], [0.0, 0.0]])
    full = loss_history.LossHistory(terms, jnp.asarray([2, 5, 2]))
    size = np.array([1, np.sqrt(12.5), 0])
    exact = (1 - 1e-3) * size / size.sum() + 1e-3 / 3
    np.testing.assert_allclose(loss_history.probabilities(full), exact, rtol=1e-6)
    not_yet = full._replace(counts=jnp.asarray([2, 5, 1]))
    np.testing.assert_allclose(loss_history.probabilities(not_yet), 1 / 3, rtol=1e-6)
    with pytest.raises(ValueError, match="n is 0"):
        loss_history.empty(3, 0)
