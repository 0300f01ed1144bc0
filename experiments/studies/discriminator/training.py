"""The quality of a discriminator along its training: gains and distances of its checkpoints."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.build import restored
from experiments.commands.request import Request
from experiments.evaluation.metrics import LEAST as LEAST
from experiments.pipeline.draw import batch_size
from experiments.pipeline.guidance import EpsilonScaling
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import charts, parts, progress
from experiments.studies import subject as subjects
from experiments.studies.discriminator import sets
from experiments.studies.statistics import Mean
from experiments.studies.subject import Corrections
from samplers.guidance import GUIDED_TIMES
from samplers.noise_levels import levels_at
from sde_lib import SDE, VP, gain
from sde_lib.batch import expand, fold_in, normal, sample_keys

N_LEVELS = 24  # nodes of the gain's integral over log sigma / alpha
RUN = "config.guidance.discriminator.run"


class Row(NamedTuple):
    """A checkpoint of the discriminator; step 0 is the model without guidance.

    The gain is that of the scores, in nats, between the noise levels at which it guides. Where the
    weights of the first and of later evaluations differ it is that of the mean of both scores,
    which Heun's step takes.
    """

    step: int
    gain: float
    gain_error: float
    frechet: float
    kernel: float
    kernel_error: float


def measure(request: Request, options: Any) -> tuple[Pipeline, list[Row]]:
    """The model, and a row for each checkpoint of its discriminator.

    Raises:
        ValueError: no discriminator, or none of these checkpoints.
    """
    config = request.config
    run = config.guidance.discriminator.run
    if not run:
        raise ValueError(f"{RUN} is empty: give the folder of the discriminator that is studied")
    there = restored.steps(Path(run), RUN)
    steps = sorted(options.steps or there)
    if missing := sorted(set(steps) - set(there)):
        raise ValueError(
            f"config.study.discriminator.steps has {missing[0]}, and the discriminator in {run} has"
            f" the checkpoints {there}: give some of these, or () for all"
        )
    ((name, solver),) = subjects.solvers(config, [options.solver], [options.nfe])
    model = subjects.unguided(request)
    data = model.test_samples(options.n_data)
    about = subjects.features(request, model)
    kept = request.folder / "discriminator" / str(model.step)
    rows = []
    for step in progress.track([0, *steps], "discriminator", "checkpoint"):
        own, w, score = Corrections(), 0.0, Mean(0.0, 0.0)
        if step:
            asked = config.copy_and_resolve_references()
            asked.guidance.discriminator.step = step
            own = subjects.corrections(asked, model)
            assert own.discriminator is not None
            w, score = own.discriminator.weight, held_out_gain(model, own, data)
        made, setting = sets.Sets(model, own, *about, kept), sets.Setting(w, 1.0)
        distances = made.measure(name, solver, setting, model.seed, options.n_samples)
        rows.append(Row(step, *score, *distances[:3]))
    return model, rows


def guided_ends(sde: SDE, discriminator: Any) -> tuple[float, float]:
    """The lowest and the highest noise level of the SDE at which a discriminator guides."""
    low, high = levels_at(VP(), list(GUIDED_TIMES))
    given = discriminator.sigma_min or low, discriminator.sigma_max or high
    least, most = levels_at(sde, [sde.train_t_min, sde.t_max])
    return max(float(least), float(given[0])), min(float(most), float(given[1]))


def held_out_gain(model: Pipeline, corrections: Corrections, data: Any) -> Mean:
    """The gain of the scores on data with noise, and its standard error over the data."""
    discriminator: Any = corrections.discriminator
    if discriminator.n_classes:  # it sees the classes of the data
        labels = tuple(map(int, data[1]["class_labels"]))
        discriminator = dataclasses.replace(discriminator, labels=labels)
        corrections = dataclasses.replace(corrections, discriminator=discriminator)
    sde, key, size = model.sde, jax.random.key(model.seed), batch_size(model, len(data[0]))
    levels, steps = gain.log_levels(*guided_ends(sde, discriminator), N_LEVELS)

    @jax.jit
    def gains(params: Any, guide_params: Any, batch: Any, first: jax.Array) -> jax.Array:
        x, conditions = batch
        x = model.scaling.to_model_each(key, x, first)
        score_fn = model.conditional_score(params, conditions)
        guided = corrections.applied(model, EpsilonScaling(), guide_params)
        own = [guide.params for guide in guided.guides]
        scores: Any = guided.guided(score_fn, own, first + jnp.arange(len(x)))
        fns = scores if isinstance(scores, tuple) else (scores,)
        keys = sample_keys(key, len(x), first)

        def at(k: jax.Array, t: jax.Array) -> jax.Array:
            z, t = normal(fold_in(keys, k), x.shape), jnp.full(len(x), t)
            mean, std = sde.marginal(x, t)
            noisy, target = mean + expand(std, x) * z, -z / expand(std, x)
            mean_score = jnp.mean(jnp.stack([fn(noisy, t) for fn in fns]), axis=0)
            return gain.noise_gain(sde, target, score_fn(noisy, t), mean_score, t)

        times = sde.inverse_noise_level(jnp.asarray(levels, float))
        each = jax.lax.map(lambda pair: at(*pair), (jnp.arange(len(times)), times))
        return jnp.tensordot(jnp.asarray(steps, float), each, 1)

    def batch(values: Any, first: int) -> dict[str, jax.Array]:
        return {"gain": gains(model.params, corrections.params, values, first)}

    found = parts.over(model.mesh, data, size, batch)["gain"]
    return Mean.of(np.asarray(found, np.float64))


def panels(rows: list[Row]) -> list[charts.Lines]:
    """The distance and the gain over the discriminator's steps."""
    plain, guided = rows[0], rows[1:]
    distance = {"guided": [(row.step, row.frechet) for row in guided]}
    gained = {"test data": [(row.step, row.gain) for row in guided]}
    make = partial(charts.Lines, label="step of the discriminator", dotted={})
    return [
        make("Fréchet distance of guided samples", curves=distance, level=plain.frechet),
        make("gain in nats", curves=gained, level=0.0),
    ]
