import numpy as np
import pytest

import sde_lib
from experiments.studies.posterior import mixtures
from experiments.studies.posterior.methods import Options, variants
from experiments.studies.posterior.mixtures import EXACT
from samplers import EulerAncestral, posterior

OPTIONS = Options(("moment_matching", "replacement"), ("heun",), (8,), (2, 6), 3, 400, 0.3)


@pytest.fixture(scope="module")
def problems():
    return list(mixtures.problems(OPTIONS, 0))


def test_problems_are_two_measurements_in_each_dimension(problems):
    assert [(p.dims, len(p.matrix)) for p in problems] == [(2, 1), (2, 1), (6, 3), (6, 1)]
    for problem in problems:
        assert problem.y.shape == (3, len(problem.matrix))
        np.testing.assert_allclose(np.linalg.norm(problem.matrix, axis=1), 1.0)
        x = np.random.RandomState(0).randn(4, problem.dims).astype(np.float32)
        np.testing.assert_allclose(problem.operator(x), x @ problem.matrix.T, rtol=1e-4, atol=1e-5)


def test_replacement_is_left_out_where_it_is_impossible(problems):
    solvers = [("heun", EulerAncestral(4))]
    labels = [[s[0] for s in mixtures.settings(OPTIONS, solvers, p)] for p in problems[:2]]
    assert labels == [["moment_matching", "replacement"], ["moment_matching"]]


@pytest.mark.thorough
def test_exact_samples_have_small_errors_and_moment_matching_larger_ones(problems):
    problem = problems[0]
    about = mixtures.settings(OPTIONS, [("euler_ancestral", EulerAncestral(40))], problem)[:1]
    exact, matched = mixtures.measure(sde_lib.VP(), problem, about, OPTIONS.n_samples, 0)
    assert (exact.method, matched.method) == (EXACT, "moment_matching")
    assert (matched.nfe, matched.evaluations) == (40, 160)
    for one, other in zip(exact[6:], matched[6:], strict=True):
        assert one < 0.2
        assert other < 0.6
    assert matched.sliced_wasserstein > exact.sliced_wasserstein


def test_variants_are_told_the_standard_deviation_of_the_data():
    made = dict(variants(("pigdm", "dps", "twisted_smc"), 0.6))
    assert made["pigdm"] == posterior.PiGDM(0.6)
    assert made["twisted_smc (n_particles=16)"] == posterior.TwistedSMC(16, data_std=0.6)
    assert made["dps (step_size=None)"] == posterior.DPS(None)
