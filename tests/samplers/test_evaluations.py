"""Tests of samplers.evaluations: the loop gives what plain calls give, and compiles them once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers
import sde_lib
from samplers import evaluations
from samplers.evaluations import Steps
from samplers.predictor_corrector import PREDICTORS
from sde_lib.sde import ScoreAndVariance

OWN_LOOPS = {"adaptive_sde", "probability_flow", "stochastic_runge_kutta", "mean_flow"}
SHAPE = (3, 2)


def score_fn(c):
    return lambda x, t: jnp.cos(c * x) * t[:, None]


def middle(k, x, score_fns):
    """A step of two evaluations, the second of them at a point that depends on the first."""
    t = jnp.full(len(x), 0.1 * (k + 1))
    first = score_fns[0](x, t)
    return x + 0.3 * score_fns[1](x + 0.5 * first, 2 * t) + 0.1 * first


def last(k, x, score_fns):
    return 2 * x - score_fns[0](x, jnp.full(len(x), 0.01))


@pytest.mark.parametrize("n", [0, 1, 4])
@pytest.mark.parametrize("constants", [(1.0,), (1.0, 3.0)])
def test_the_loop_gives_what_calls_in_turn_give(n, constants):
    functions = tuple(map(score_fn, constants))
    x = y = jax.random.normal(jax.random.key(0), SHAPE)
    for k in range(n):
        y = middle(k, y, (functions[0], functions[-1]))
    y = last(0, y, functions)
    given = functions if len(functions) > 1 else functions[0]
    made = evaluations.run(given, x, [Steps(middle, n, 2), Steps(last, 1)])
    np.testing.assert_allclose(made, y, rtol=1e-6)


def test_the_second_result_of_a_network_reaches_the_step():
    def step(k, x, score_fns):
        score, v = score_fns[0].both(x, jnp.full(len(x), 0.5))
        return x + score + 10 * v

    both = ScoreAndVariance(lambda x, t: (-x, x**2))
    x = jnp.ones(SHAPE)
    np.testing.assert_allclose(evaluations.run(both, x, [Steps(step, 2)]), 1000.0)


def test_no_steps_change_nothing():
    assert evaluations.run(score_fn(1.0), 5, [Steps(middle, 0, 2)]) == 5


@pytest.mark.thorough
def test_the_loop_can_be_differentiated():
    parts = [Steps(middle, 3, 2), Steps(last, 1)]
    value = lambda x: jnp.sum(evaluations.run(score_fn(1.0), x, parts))  # noqa: E731
    x = jnp.full(SHAPE, 0.4)
    ahead = jax.jvp(value, (x,), (jnp.ones(SHAPE),))[1]
    np.testing.assert_allclose(jnp.sum(jax.grad(value)(x)), ahead, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 3])
def test_a_step_with_another_number_of_evaluations_is_refused(n):
    with pytest.raises(ValueError, match=f"2 evaluations of the score, but says {n}"):
        evaluations.run(score_fn(1.0), jnp.ones(SHAPE), [Steps(middle, 4, n)])


def test_a_predictor_that_evaluates_elsewhere_is_refused(monkeypatch):
    def shifted(sde, score_fn, x, t, dt, z, probability_flow=False):
        return (x + dt * score_fn(x + 1, t),) * 2

    monkeypatch.setitem(PREDICTORS, "shifted", shifted)
    sampler = samplers.PredictorCorrector(4, predictor="shifted")
    with pytest.raises(ValueError, match="at another point than the x and t"):
        trace(sampler, lambda x, t: -x)


@pytest.mark.parametrize("name", sorted(set(samplers.SAMPLERS) - OWN_LOOPS))
def test_a_sampler_holds_the_network_once(name):
    """It is traced for the check of its shape, and for the loop."""
    calls = []
    trace(samplers.create(name), lambda x, t: (calls.append(0), -x)[1])
    assert len(calls) == 2


def test_each_function_of_a_tuple_is_compiled_once():
    calls = []
    functions = tuple(lambda x, t, i=i: (calls.append(i), -x)[1] for i in range(2))
    trace(samplers.Heun(4), functions)
    assert calls == [0, 1, 0, 1]


def trace(sampler, score_fn):
    cld = isinstance(sampler, samplers.SymmetricSplitting)
    sde = sde_lib.CLD() if cld else sde_lib.VP()
    shape = sde.state_shape(SHAPE)
    return jax.eval_shape(lambda key: sampler(key, sde, score_fn, shape), jax.random.key(0))
