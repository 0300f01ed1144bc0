import itertools

import pytest

from experiments.benchmark import measure


def test_runs_take_turns_in_each_round():
    now, said = itertools.count(), []
    runs = {"a": lambda: said.append("a"), "b": lambda: said.append("b")}
    times = measure.in_turns("a and b", runs, 3, clock=lambda: next(now) ** 2)
    assert said == ["a", "b"] * 3
    # Readings k^2: the differences of each pair are 1, 5, 9, ...
    assert times == {"a": [1, 9, 17], "b": [5, 13, 21]}
    assert measure.medians(times) == {"a": 9, "b": 13}


def test_ratio_is_the_median_of_the_rounds_ratios():
    times = {"whole": [2.0, 6.0, 9.0], "one": [1.0, 1.0, 2.0], "two": [1.0, 0.5, 1.0]}
    assert measure.ratio(times, "whole", ["one", "two"]) == 3  # of 1, 4 and 3
    assert measure.ratio(times, "whole", ["one"]) == 4.5


@pytest.mark.parametrize("n", [0, 3])
def test_a_chained_call_takes_the_result_of_the_last(n):
    assert measure.chained(lambda x: 2 * x + 1, 0, n)() == 2**n - 1
