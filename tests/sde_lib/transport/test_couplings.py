from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from scipy.optimize import linear_sum_assignment

import sde_lib
from sde_lib.batch import normal, sample_keys
from sde_lib.transport import Assignment, Sinkhorn, couplings, create
from sde_lib.transport.couplings import entropic_plan

KEYS = sample_keys(jax.random.key(0), 80)
X0 = Gaussian().sample(jax.random.key(1), (80, 3))
Z = normal(sample_keys(jax.random.key(2), 80), (80, 3))


@pytest.fixture(scope="module")
def assigned():
    return np.asarray(jax.jit(Assignment(group=16))(KEYS, X0, Z))


def squares(x, z):
    return np.square(np.asarray(x)[:, None] - np.asarray(z)).sum(-1)


def test_the_assignment_of_each_group_is_that_of_least_distance(assigned):
    for rows in np.split(np.arange(80), 5):
        costs = squares(X0[rows], Z[rows])
        best = costs[linear_sum_assignment(costs)].sum()
        own = np.square(X0[rows] - assigned[rows]).sum()
        np.testing.assert_allclose(own, best, rtol=1e-6)


def test_an_assignment_keeps_each_noise_once(assigned):
    for rows in np.split(np.arange(80), 5):
        assert {*map(tuple, assigned[rows])} == {*map(tuple, np.asarray(Z[rows]))}


@pytest.mark.thorough
def test_a_group_does_not_depend_on_the_others(assigned):
    alone = Assignment(group=16)(KEYS[32:48], X0[32:48], Z[32:48])
    np.testing.assert_array_equal(assigned[32:48], alone)
    with_rest = Assignment(group=16)(KEYS[:20], X0[:20], Z[:20])  # and a group of 4
    np.testing.assert_array_equal(assigned[:16], with_rest[:16])
    assert {*map(tuple, np.asarray(with_rest))} == {*map(tuple, np.asarray(Z[:20]))}


def test_groups_one_after_another_have_the_same_plans(assigned, monkeypatch):
    monkeypatch.setattr(couplings, "MOST_COSTS", 2 * 16**2)  # two groups at once, and one is left
    one_by_one = jax.jit(lambda *a: Assignment(group=16)(*a))(KEYS, X0, Z)
    np.testing.assert_array_equal(assigned, one_by_one)


def test_a_large_batch_of_large_groups_has_the_memory_of_one():
    """Of 16 groups at once, the temporary arrays were 1.3 GB."""
    x = jax.ShapeDtypeStruct((16 * 2048, 2), jnp.float32)
    keys = jax.eval_shape(lambda: sample_keys(jax.random.key(0), 16 * 2048))
    made = jax.jit(create("sinkhorn", group=2048).__call__).lower(keys, x, x).compile()
    memory: Any = made.memory_analysis()
    assert memory.temp_size_in_bytes < 1e8


def test_the_entropic_plan_has_its_marginals_and_its_form():
    costs = jnp.asarray(squares(X0[:40], Z[:40]) / 0.6)
    log_plan = np.asarray(jax.jit(entropic_plan)(costs), np.float64)
    plan = np.exp(log_plan)
    np.testing.assert_allclose(plan.sum(0), 1 / 40, rtol=2e-3)
    np.testing.assert_allclose(plan.sum(1), 1 / 40, rtol=2e-3)
    potentials = log_plan + costs  # f_i + g_j: all its second differences vanish
    second = potentials - potentials[:1] - potentials[:, :1] + potentials[0, 0]
    np.testing.assert_allclose(second, 0, atol=1e-3)


@pytest.mark.thorough
def test_entropy_lies_between_the_assignment_and_independent_pairs(assigned):
    few, none = (create("sinkhorn", group=16, entropy=e)(KEYS, X0, Z) for e in (0.02, 1e4))
    near, far = (float(jnp.mean(jnp.sum((X0 - z) ** 2, axis=1))) for z in (few, none))
    best = float(np.square(X0 - assigned).sum(1).mean())
    independent = squares(X0, Z).reshape(5, 16, 5, 16).diagonal(axis1=0, axis2=2).mean()
    assert near < 1.1 * best
    assert abs(far / independent - 1) < 0.15


@pytest.mark.thorough
def test_the_entropy_by_default_has_the_units_of_the_data():
    small = Sinkhorn(group=16)(KEYS, X0, Z)
    np.testing.assert_allclose(Sinkhorn(group=16)(KEYS, 50 * X0, 50 * Z), 50 * small, rtol=1e-5)


@pytest.mark.thorough
def test_training_under_a_coupling_has_shorter_pairs_and_the_same_noise():
    """x_t - alpha x_0 = sigma z, with the z of the group in another order."""
    sde, key = sde_lib.LinearFlow(), jax.random.key(3)
    plain = sde_lib.perturb(key, sde, X0)
    paired = sde_lib.perturb(key, sde, X0, coupling=Assignment(group=80))
    np.testing.assert_array_equal(np.sort(paired.z, axis=0), np.sort(plain.z, axis=0))
    np.testing.assert_allclose(paired.x, sde.noised(X0, paired.t, paired.z), rtol=1e-6)
    assert float(jnp.mean((paired.z - X0) ** 2)) < 0.6 * float(jnp.mean((plain.z - X0) ** 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Assignment(group=1), "group is 1: it must be at least 2"),
        (lambda: Assignment(group=100_000), "group is 100000: .* at most 2048, because memory"),
        (lambda: Sinkhorn(entropy=0.0), "entropy is 0.0: it must be positive"),
        (lambda: create("sinkhron"), "did you mean 'sinkhorn'"),
        (lambda: Assignment()(KEYS, X0, Z[:, :2]), r"the source have \(2,\), the data \(3,\)"),
        (
            lambda: sde_lib.perturb(KEYS[0], sde_lib.CLD(), X0, coupling=Assignment()),
            "CLD.* velocities",
        ),
    ],
)
def test_impossible_couplings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
