from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian

import samplers
import sde_lib
from experiments.runs import devices, hosts
from experiments.runs.long import segments
from experiments.runs.long.segments import InSegments
from samplers import editing, posterior
from samplers.posterior.base import Draw, Measurement
from sde_lib import loops

X = np.linspace(-1, 1, 12, dtype="f4").reshape(4, 3)
N_STEPS = 100


def steps(x, shift):
    """A hundred steps of a batch, whose state has arrays of several kinds."""

    def step(k, state):
        y, table, count = state
        return jnp.sin(y) + shift, table.at[k % 2].set(y), count + 1

    first = 2 * x, jnp.zeros((2, *x.shape)), 0
    y, table, count = loops.fori_loop(N_STEPS, step, first)
    return y + jnp.sum(table, 0), count


@pytest.fixture(scope="module")
def made():
    return InSegments(steps, devices.make_mesh())


def test_the_result_is_that_of_one_program(made):
    whole = jax.jit(steps)(X, 0.1)
    for _ in range(2):
        jax.tree.map(np.testing.assert_array_equal, made(X, 0.1), whole)


def test_segments_take_a_second_of_steps_all_alike(monkeypatch):
    """The first segments have FIRST_STEPS; a step of half a second makes two for the others."""
    seen = []
    monkeypatch.setattr(segments.progress, "show_share", seen.append)
    clock = iter([0.0, segments.FIRST_STEPS / 2])
    monkeypatch.setattr(segments, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    InSegments(steps, devices.make_mesh())(X, 0.1)
    first = segments.FIRST_STEPS / N_STEPS
    assert seen[:3] == pytest.approx([first, 2 * first, 2 * first + 0.02])
    assert seen[-1] == 1
    assert len(seen) == 2 + (N_STEPS - 2 * segments.FIRST_STEPS) / 2


def test_a_loop_that_ends_in_the_first_segment_does_not_tell_how_long_steps_take():
    short = InSegments(lambda x: loops.fori_loop(3, lambda k, y: y + k, x), devices.make_mesh())
    np.testing.assert_array_equal(short(X), X + 3)
    assert not short._steps


def test_each_part_is_compiled_once(made):
    for shift in (0.1, 0.2):
        made(X, shift)
    programs = made._begin, made._advance
    assert [program._cache_size() for program in programs] == [2, 1]  # with the result


def test_all_hosts_take_the_first_one_s_number_of_steps(monkeypatch):
    monkeypatch.setattr(hosts, "agree", lambda value: 7)
    host = InSegments(steps, devices.make_mesh())
    host(X, 0.1)
    assert host._steps == {0: 7}


def test_without_a_loop_or_inside_jit_it_is_the_function(made):
    assert InSegments(lambda x: x + 1, devices.make_mesh())(1) == 2
    inside = jax.jit(lambda x: made(x, 0.1))(X)
    jax.tree.map(np.testing.assert_array_equal, inside, jax.jit(steps)(X, 0.1))


def test_the_lowered_program_is_that_of_a_segment(made):
    def output(program):
        return program.lower(X, *(0.1,) * (program is made)).compile().memory_analysis()

    assert output(made).output_size_in_bytes >= 3 * X.nbytes
    none = InSegments(lambda x: x + 1, devices.make_mesh())
    assert output(none).output_size_in_bytes == X.nbytes


KEY, SDE, DATA = jax.random.key(0), SDES["vp"], Gaussian()


def twisted_smc(score_fn):
    """Samples given their first value."""
    method = posterior.TwistedSMC(n_particles=3)
    about = Measurement(SDE, lambda x: x[:, :1], X[:, :1], 0.3)
    return method.draw(about, score_fn, Draw(KEY, samplers.Heun(15), X.shape))


SOLVERS = {
    "probability_flow": lambda score: samplers.ProbabilityFlow()(KEY, SDE, score, (4, 2), 0, 3),
    "adaptive_sde": lambda score: samplers.AdaptiveSDE()(KEY, SDE, score, (4, 2), 0, 3),
    "dpm_adaptive": lambda score: samplers.DPMAdaptive()(KEY, SDE, score, (4, 2), 0, 3),
    "tolerance": lambda score: sde_lib.log_likelihood(KEY, SDE, score, X),
    "accuracy": lambda score: sde_lib.log_likelihood(KEY, SDE, score, X, accuracy=0.01),
    "reconstruct": lambda score: editing.reconstruct(SDE, score, X, 8),
    "twisted_smc": twisted_smc,
}


def test_the_second_loop_shows_its_progress_after_the_first_one(monkeypatch):
    """As in an edit that inverts an image, and then makes another of its noise."""
    seen = []
    monkeypatch.setattr(segments.progress, "show_share", seen.append)

    def twice(x):
        return steps(steps(x, 0.1)[0], 0.2)

    made = InSegments(twice, devices.make_mesh())
    made._steps = {0: 25, 1: 50}
    jax.tree.map(np.testing.assert_array_equal, made(X), jax.jit(twice)(X))
    assert seen == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.75, 1])


@pytest.mark.thorough
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_run_in_segments_with_the_same_bits_and_evaluations(name, monkeypatch):
    """The numbers of evaluations are among the results that are compared."""

    def solve(factor):
        score_fn = DATA.score_fn(SDE)
        return SOLVERS[name](lambda x, t: factor * score_fn(x, t))

    seen = []
    monkeypatch.setattr(segments.progress, "show_share", seen.append)
    made = InSegments(solve, devices.make_mesh())
    made._steps = {0: 2, 1: 2}
    jax.tree.map(np.testing.assert_array_equal, made(1.0), jax.jit(solve)(1.0))
    assert len(seen) > 3
    assert (0 < seen[0] < 0.9, seen[-1]) == (True, 1)
