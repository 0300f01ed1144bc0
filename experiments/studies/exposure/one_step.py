"""Mode study, config.study.name = "one_step": the error of one reverse step from data with noise.

    python -m experiments.main --config=configs/digits.py:edm --mode=study \\
        --config.study.name=one_step

With y = x / alpha and noise levels L > l, DDPM's step from y_L is

    y_l = (1 - c) y_L + c x_0 + l sqrt(c) z,   c = 1 - l^2 / L^2,

with the model's estimate of x_0 in place of x_0. If y_L is x_0 with noise, and x_0 is known, y_l is
x_0 with noise of variance l^2: an input of training. With the estimate x_0 + e it is off by c e.
Ning et al. 2023 (arXiv 2308.15321, Section 3) take e as independent of the noise, so that the
variance of y_l about x_0 exceeds l^2 by c^2 E[e^2]. For the exact E[x_0 | y_L] that is not so: the
covariance of e and the noise of y_L is E[e^2], and the excess is (2 c - c^2) E[e^2] for any data.

The table has, for each pair of levels of EDM's grid and in the mean over dimensions, the root mean
square of e and of the step's error c e, the measured excess of the variance over l^2, and both
formulas. Without a run, the data set "mixture" is studied by its exact score.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.commands.request import Request
from experiments.pipeline.draw import batch_size
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import charts, parts, pictures
from experiments.studies import subject as subjects
from experiments.studies.exposure_bias import training_data
from experiments.studies.statistics import Mean, save_results
from samplers.noise_levels import Levels, levels_at, noise_levels
from sde_lib.batch import expand, fold_in, normal, sample_keys
from sde_lib.checks import check_at_least

LEAST = 1e-3  # the lowest noise level: below it errors are those of float32


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the study, config.study.one_step.

    Attributes:
        n_levels: noise levels of EDM's grid; a step goes from each to the next.
        n_samples: training data that the steps start from, with noise.
    """

    n_levels: int
    n_samples: int

    def __post_init__(self):
        for name, least in (("n_levels", 2), ("n_samples", 2)):
            check_at_least(least, **{f"config.study.one_step.{name}": getattr(self, name)})


class Step(NamedTuple):
    """A step between two noise levels; means over samples and dimensions.

    Attributes:
        start: noise level sigma / alpha before the step.
        end: noise level after it.
        estimate_error: root mean square of e, the error of the estimate of x_0.
        step_error: root mean square of c e, the error of the step.
        excess: variance about x_0 after the step, less end^2.
        excess_error: its standard error.
        independent: c^2 E[e^2], the excess if e is independent of the noise (Ning et al. 2023).
        exact: (2 c - c^2) E[e^2], the excess of the exact estimate.
    """

    start: float
    end: float
    estimate_error: float
    step_error: float
    excess: float
    excess_error: float
    independent: float
    exact: float


def run(request: Request) -> None:
    """Measures all steps; prints the table, and saves it with a picture.

    Raises:
        ValueError: an impossible option, or no run.
    """
    config, folder = request.config, request.folder
    options = Options(**config.study.one_step.to_dict())
    subject = subjects.subject(request)
    model = subject.model
    sde = model.sde
    high, low = levels_at(sde, [sde.t_max, sde.train_t_min])
    ends = float(high), max(float(low), LEAST)
    levels = noise_levels(sde, "karras", *ends, options.n_levels, None, denoise=True)
    rows = steps(model, training_data(subject, options.n_samples), levels)
    path = folder / f"one_step_{model.step}_seed{model.seed}.jsonl"
    save_results(path, rows, ".3g")
    about = pictures.provenance(config=config.to_dict(), seed=model.seed, samples=subject.about)
    print(charts.save_lines(path.with_suffix(".png"), [panel(rows)], 1, about))


def steps(model: Pipeline, data: Any, levels: Levels) -> list[Step]:
    """The steps from each of the decreasing levels to the next, from data with noise."""
    sde, key, size = model.sde, jax.random.key(model.seed), batch_size(model, len(data[0]))
    pairs = jnp.asarray(np.stack([levels[:-1], levels[1:]], axis=1), float)

    @jax.jit
    def errors(params: Any, batch: Any, first: jax.Array) -> dict[str, jax.Array]:
        x, conditions = batch
        x = model.scaling.to_model_each(key, x, first)
        score_fn = model.conditional_score(params, conditions)
        keys = sample_keys(key, len(x), first)

        def mean(values: jax.Array) -> jax.Array:
            return jnp.mean(values.reshape(len(x), -1), axis=1)

        def at(numbered: Any) -> dict[str, jax.Array]:
            k, (start, end) = numbered
            t = jnp.full(len(x), sde.inverse_noise_level(start[None])[0])
            noise = normal(fold_in(keys, k), x.shape)
            y = x + start * noise
            alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
            e = y + start * sigma * score_fn(alpha * y, t) - x
            c = 1 - (end / start) ** 2
            # The square of c e + (1 - c) L noise, less that without e; z is independent of both.
            return {
                "squares": mean(e**2),
                "excess": mean(c * e * (c * e + 2 * (1 - c) * start * noise)),
            }

        found = jax.lax.map(at, (jnp.arange(len(pairs)), pairs))
        return {name: values.T for name, values in found.items()}

    def batch(values: Any, first: int) -> dict[str, jax.Array]:
        return errors(model.params, values, first)

    found = parts.over(model.mesh, data, size, batch)
    ends = zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True)
    columns = zip(ends, found["squares"].T, found["excess"].T, strict=True)
    return [_step(start, end, squares, excess) for (start, end), squares, excess in columns]


def _step(start: float, end: float, squares: np.ndarray, excess: np.ndarray) -> Step:
    c, square = 1 - (end / start) ** 2, float(np.mean(squares, dtype=np.float64))
    measured = Mean.of(np.asarray(excess, np.float64))
    errors = square**0.5, c * square**0.5
    formulas = c**2 * square, (2 * c - c**2) * square
    return Step(start, end, *errors, measured.value, measured.error, *formulas)


def panel(rows: list[Step]) -> charts.Lines:
    """The excess of the variance over the noise level before the step, and both formulas."""
    names = {"excess": "measured", "independent": "c^2 E[e^2]", "exact": "(2 c - c^2) E[e^2]"}
    curves = {
        label: [(row.start, getattr(row, name)) for row in rows if getattr(row, name) > 0]
        for name, label in names.items()
    }
    return charts.Lines("variance in excess after a step", "noise level before", curves, {})
