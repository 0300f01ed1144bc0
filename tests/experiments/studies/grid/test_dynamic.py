import itertools

import numpy as np
import pytest

from experiments.studies.grid import dynamic


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_the_path_has_the_least_sum_of_all(n):
    """Against all choices of levels, of random errors of steps down."""
    errors = np.random.RandomState(0).rand(7, 8)
    errors[np.tril_indices(7)[0], np.tril_indices(7)[1]] = np.inf

    def total(path):
        return sum(errors[i, j] for i, j in itertools.pairwise([*path, 7]))

    found = dynamic.best(errors, n)
    ways = [(0, *rest) for rest in itertools.combinations(range(1, 7), n - 1)]
    assert total(found) == pytest.approx(min(map(total, ways)))
    assert found[0] == 0
    assert len(found) == n


def test_more_levels_than_there_are_are_refused():
    with pytest.raises(ValueError, match="a grid of 8 levels is asked for: it must be 1 to 7"):
        dynamic.best(np.zeros((7, 8)), 8)


def gaussian(levels, std=0.6):
    """States, noise and ends of the flow of N(0, std^2), exactly: y = std_l z."""
    z = np.random.RandomState(0).randn(500, 1)
    total = np.hypot(std, levels)[:, None, None]
    return total * z, levels[:, None, None] / total * z, std * z


def euler(grid, std=0.6):
    """The factor by which Euler's steps change y, down to x_0, over the exact one."""
    factor = 1.0
    for now, then in itertools.pairwise([*grid, 0.0]):
        factor *= 1 + (then - now) * now / (std**2 + now**2)
    return factor * np.hypot(std, grid[0]) / std


def test_steps_of_a_gaussian_have_the_errors_of_the_formula():
    levels = np.geomspace(20, 0.01, 30)
    y, noise, end = gaussian(levels)
    errors = dynamic.local_errors(levels, y, noise, end)
    i, j, std = 5, 12, np.std(end)
    now, then = np.hypot(0.6, levels[i]), np.hypot(0.6, levels[j])
    away = abs(now + (levels[j] - levels[i]) * levels[i] / now - then) * std / 0.6
    away *= std / np.hypot(std, levels[j])
    assert errors[i, j] == pytest.approx(away, rel=0.01)
    assert np.isinf(errors[np.tril_indices(30)]).all()
    second = dynamic.local_errors(levels, y, noise, end, order=2)
    assert second[i, i + 1] < 0.2 * errors[i, i + 1]
    np.testing.assert_array_equal(second[:, -1], errors[:, -1])


@pytest.mark.parametrize("n", [4, 8, 16])
def test_the_grid_of_a_gaussian_beats_the_named_ones(n):
    """By Euler's error at the end, which is known."""
    levels = np.geomspace(20, 0.01, 100)
    found = levels[dynamic.best(dynamic.local_errors(levels, *gaussian(levels)), n)]
    karras = np.linspace(20 ** (1 / 7), 0.01 ** (1 / 7), n) ** 7
    for other in (karras, np.geomspace(20, 0.01, n)):
        assert abs(euler(found) - 1) < 0.8 * abs(euler(other) - 1)
