"""The norms of the noise that a network predicts, along training inputs and along sampling.

Both are functions of a model whose sampler is the solver that is studied.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pipeline.guidance import EpsilonScaling
from experiments.pipeline.pipeline import Pipeline
from experiments.studies.subject import Corrections
from samplers.base import Scores
from samplers.noise_levels import Levels
from samplers.solver import NoiseLevelSolver, enter, model_at
from sde_lib import SDE, ScoreFn
from sde_lib.batch import Batch, PerSample, expand, sample_keys

Data = tuple[Any, dict[str, Any]]
"""Data of a batch as their set has them, and their conditions."""
Norms = dict[str, jax.Array]
"""[B, evaluations] of the noise that the "network" predicts, and that the "solver" is given."""


def solver_of(model: Pipeline) -> NoiseLevelSolver:
    """The solver that is the model's sampler."""
    assert isinstance(model.sampler, NoiseLevelSolver)
    return model.sampler


def evaluated_levels(model: Pipeline) -> Levels:
    """The noise levels of all of the solver's evaluations of the network, in their order."""
    solver, levels = solver_of(model), _loop_levels(model)
    return np.append(solver.plan(levels[:-1], levels[1:]).evaluations, levels[-1])


def make_walk(
    model: Pipeline, corrections: Corrections
) -> Callable[[float, float, Data, int], tuple[jax.Array, Norms]]:
    """walk(b, slope, batch, first index): the solver's own samples, and the norms on its way.

    A step is compiled once, whatever b, and called from Python: a loop inside the program would
    keep the norms to itself.
    """
    sde, solver, levels = model.sde, solver_of(model), _loop_levels(model)

    def mover(scores: Scores, y: Batch, first: jax.Array):
        keys = sample_keys(jax.random.key(model.seed), len(y), first)
        return solver.mover(sde, scores, keys, levels, y.shape)

    @partial(jax.jit, static_argnums=0)
    def begin(n, first):
        y, *_ = _enter(model, n, first)
        _, w = mover(lambda x, t: x, y, first)
        return y, jnp.zeros((solver.n_past, *y.shape)), w

    @jax.jit
    def step(inputs, conditions, first, k, state):
        scores, norms = _recorded(model, corrections, inputs, conditions, len(state[0]))
        move, _ = mover(scores, state[0], first)
        return move(k, *state), norms()

    @jax.jit
    def end(inputs, conditions, y):
        scores, norms = _recorded(model, corrections, inputs, conditions, len(y))
        return model_at(sde, scores, levels[-1:]).denoised(y), norms()

    def walk(b: float, slope: float, batch: Data, first: int) -> tuple[jax.Array, Norms]:
        inputs, (x, conditions) = (model.params, corrections.params, b, slope), batch
        state, norms = begin(len(x), first), []
        for k in range(solver.n_moves):
            state, new = step(inputs, conditions, first, k, state)
            norms.append(new)
        x, new = end(inputs, conditions, state[0])
        return x, jax.tree.map(lambda *each: jnp.concatenate(each, axis=1), *norms, new)

    return walk


def make_training(model: Pipeline) -> Callable[[Data, int], Norms]:
    """training(batch, first index): the norms of a walk, of data with noise at the same levels.

    A sample's noise is the noise that it starts from in a walk.
    """
    sde, key = model.sde, jax.random.key(model.seed)
    levels, which = np.unique(evaluated_levels(model), return_inverse=True)

    @jax.jit
    def norms(params, batch, first):
        x, conditions = batch
        x = model.scaling.to_model_each(key, x, first)
        z = sde.prior_sample(key, x.shape, first) / sde.prior_std
        score_fn = model.conditional_score(params, conditions)

        def at(t):
            t = jnp.full(len(x), t)
            mean, std = sde.marginal(x, t)
            return _noise_norm(sde, score_fn(mean + expand(std, x) * z, t), t)

        t = sde.inverse_noise_level(jnp.asarray(levels, jnp.float32))
        network = jax.lax.map(at, t).T[:, which]
        return {"network": network, "solver": network}

    return partial(norms, model.params)


def _recorded(
    model: Pipeline,
    corrections: Corrections,
    inputs: tuple[Any, Any, Any, Any],
    conditions: dict[str, Any],
    n: int,
) -> tuple[Scores, Callable[[], Norms]]:
    """Inside jit: the corrected scores, and a function that gives the norms of their evaluations.

    Args:
        model: the model.
        corrections: of its score.
        inputs: parameters of the model and of the discriminator, b, and its slope.
        conditions: of the samples.
        n: samples in the batch.
    """
    params, discriminator_params, b, slope = inputs
    norms: dict[str, list[PerSample]] = {"network": [], "solver": []}

    def record(name: str, score_fn: ScoreFn) -> ScoreFn:
        def recording(x, t):
            score = score_fn(x, t)
            norms[name].append(_noise_norm(model.sde, score, t))
            return score

        return recording

    network = record("network", model.conditional_score(params, conditions))
    guided = corrections.applied(model, EpsilonScaling(b, slope), discriminator_params)
    own = [guide.params for guide in guided.guides]
    scores = guided.guided(network, own, jnp.arange(n))
    scores = jax.tree.map(partial(record, "solver"), scores)
    return scores, lambda: {name: jnp.stack(each, axis=1) for name, each in norms.items()}


def _noise_norm(sde: SDE, score: Batch, t: PerSample) -> PerSample:
    """The L2 norm of -sigma score, [B]."""
    return sde.sigma(t) * jnp.linalg.norm(score.reshape(len(score), -1), axis=1)


def _loop_levels(model: Pipeline) -> Levels:
    """The noise levels that the solver's steps go through, from the prior's on."""
    _, high, low = _enter(model, 1, 0)
    return solver_of(model).levels(model.sde, high, low)


def _enter(model: Pipeline, n: int, first: int | jax.Array) -> tuple[Batch, float, float]:
    key, solver = jax.random.key(model.seed), solver_of(model)
    ends = solver.grid, solver.sigma_max, solver.sigma_min
    return enter(key, model.sde, (n, *model.shape), first, None, *ends)
