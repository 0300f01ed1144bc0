"""Solvers between noise levels run on the host, in float64, for a Gaussian's linear score."""

import jax
import numpy as np

from samplers.brownian import levy

MEAN, STD = 0.3, 0.7
N_PATHS = 100


class Linear:
    """samplers.solver.Model of N(MEAN, std^2) at a row of levels."""

    def __init__(self, level, std=STD):
        self.level, self.std = level, std

    def noise(self, y, i=0):
        return self.level[i] * (y - MEAN) / (self.std**2 + self.level[i] ** 2)

    def denoised(self, y, i=0):
        return y - self.level[i] * self.noise(y, i)


def karras(n, high=80.0, low=0.05):
    return np.linspace(high ** (1 / 7), low ** (1 / 7), n + 1) ** 7


def _rows(solver, levels):
    plan = solver.plan(levels[:-1], levels[1:])
    for k in range(len(levels) - 1):
        c = jax.tree.map(lambda a, k=k: a[k], plan.coefficients)
        stops = None if plan.stops is None or plan.rate == 0 else plan.stops[k]
        yield c, plan.evaluations[k], levels[k], stops, plan.rate


def final_std(solver, levels):
    """The standard deviation that a solver's steps give to what starts with the right one."""
    n = 1 + solver.n_past
    covariance = np.zeros((n, n))
    covariance[0, 0] = STD**2 + levels[0] ** 2
    with jax.enable_x64(True):
        for c, evaluations, now, stops, rate in _rows(solver, levels):
            n_draws = solver.evaluations if stops is None else len(stops)
            columns = np.eye(n + n_draws)
            columns[0] += MEAN  # the step is affine in y - MEAN, past - MEAN and z
            columns[1:n] += MEAN
            z = columns[n:] * (stops is not None)
            y, past = solver.step(Linear(evaluations), columns[0], c, columns[1:n], z)
            matrix = np.concatenate([np.asarray(y)[None], np.asarray(past)]) - MEAN
            times = 0 if stops is None else stops ** (-2 * rate) - now ** (-2 * rate)
            ratio = 1.0 if stops is None else np.divide.outer(times, times)
            joint = np.zeros((n + n_draws, n + n_draws))
            joint[:n, :n] = covariance
            joint[n:, n:] = np.sqrt(np.minimum(ratio, 1 / ratio))
            covariance = matrix @ joint @ matrix.T
    return np.sqrt(covariance[0, 0])


def starts(level, std=STD):
    """[N_PATHS] y at a level."""
    return np.random.default_rng(0).normal(MEAN, np.hypot(std, level), N_PATHS)


def trajectory(solver, levels, std=STD):
    """[N_PATHS] final y of starts and Brownian paths that depend on nothing but their number."""
    y = starts(levels[0], std)
    draws = np.random.default_rng(1).normal(size=(1 << 13, N_PATHS))
    past = np.zeros((solver.n_past, N_PATHS))
    with jax.enable_x64(True):
        for c, evaluations, now, stops, rate in _rows(solver, levels):
            if stops is None:
                z = np.zeros((solver.evaluations, 1))
            else:
                visited = np.append(now, stops)
                places, weights = levy(visited, 80.0, 0.05, rate)
                w = np.einsum("vt,vtp->vp", weights, draws[places]) * visited[:, None] ** -rate
                z = (w[1:] - w[0]) / np.sqrt(stops ** (-2 * rate) - now ** (-2 * rate))[:, None]
            y, past = solver.step(Linear(evaluations, std), y, c, past, z)
    return np.asarray(y)


def orders(errors):
    return np.log2(np.abs(errors[:-1]) / np.abs(errors[1:]))


def weak_orders(create, steps=(80, 160, 320), low=0.3):
    """Weak orders of convergence of the standard deviation, between the step counts."""
    exact = np.hypot(STD, low)
    return orders(np.array([final_std(create(n), karras(n, low=low)) / exact - 1 for n in steps]))


def strong_orders(create, steps=(32, 64, 128), finest=512):
    """Strong orders of convergence: root-mean-square error against the finest steps.

    Those are of the same order: 1 shows as log2(15 / 7) = 1.1 and log2(7 / 3) = 1.2.
    """
    best = trajectory(create(finest), karras(finest))
    errors = [trajectory(create(n), karras(n)) - best for n in steps]
    return orders(np.array([np.sqrt(np.mean(error**2)) for error in errors]))
