"""The noise levels with the least sum of local errors on a model's own trajectories.

A fine solution of the probability flow gives states y_i = x_i / alpha_i and predicted noises eps_i
at levels l_0 > ... > l_N, and ends in x_0. A step of Euler's method (DDIM) from l_i to l_j would
end in y_i + (l_j - l_i) eps_i: its distance from y_j is the local error. The error goes on along
the flow, on which data of standard deviation s contract like s / sqrt(s^2 + l_j^2). The levels that
minimise the sum of the errors at the end are found by dynamic programming, as in GITS (Chen et al.
2024, arXiv 2405.11326), which has a constant factor a step in place of the contraction.
"""

import numpy as np
from jaxtyping import Float

Levels = Float[np.ndarray, " levels"]


def local_errors(
    levels: Levels,
    y: Float[np.ndarray, "levels samples dims"],
    noise: Float[np.ndarray, "levels samples dims"],
    end: Float[np.ndarray, "samples dims"],
    order: int = 1,
) -> Float[np.ndarray, "levels ends"]:
    """The RMS errors, at the end, of single steps from level i to level j > i; the last to x_0.

    Args:
        levels: decreasing noise levels.
        y: the states x / alpha at the levels.
        noise: the predicted noise there.
        end: x_0.
        order: 1 for steps of Euler's method, 2 for those of the trapezoid rule. The step to x_0 is
            Euler's.

    Returns:
        [N, N + 1], inf where the step does not go down.
    """
    n, spread = len(levels), np.mean(np.var(end, axis=0))
    ends, goals = np.append(levels, 0.0), np.concatenate([y, end[None]])
    errors = np.full((n, n + 1), np.inf)
    for i in range(n):
        slope = np.broadcast_to(noise[i], (n - i, *end.shape)).copy()
        if order == 2:
            slope[:-1] = (slope[:-1] + noise[i + 1 :]) / 2
        steps = (ends[i + 1 :] - levels[i])[:, None, None]
        away = y[i] + steps * slope - goals[i + 1 :]
        errors[i, i + 1 :] = np.sqrt(np.mean(away**2, axis=(1, 2)))
    return errors * np.sqrt(spread / (spread + ends**2))


def best(errors: Float[np.ndarray, "levels ends"], n: int) -> list[int]:
    """The n levels, by their numbers, of the path from the first to x_0 with the least sum.

    Raises:
        ValueError: more levels than there are.
    """
    total = len(errors)
    if not 1 <= n <= total:
        raise ValueError(f"a grid of {n} levels is asked for: it must be 1 to {total}")
    least, ways = errors[:, -1], []  # with one step, to x_0
    for _ in range(n - 1):
        sums = errors[:, :-1] + least
        ways.append(sums.argmin(axis=1))
        least = sums.min(axis=1)
    path = [0]
    for way in reversed(ways):
        path.append(int(way[path[-1]]))
    return path
