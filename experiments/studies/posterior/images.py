"""Test images of a trained model, measured and sampled: errors, error bars, and their coverage.

All of them are of pixels. The test images of a model in latents are those that its test latents
decode to, so that the posterior is that of the model.

With n samples the truth's rank among them is uniform if it is one more sample of the posterior. So
it lies between the j-th smallest and the j-th largest with the probability 1 - 2 j / (n + 1).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.pipeline import draw as drawing
from experiments.pipeline.edit import MASKS
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import devices, pictures
from experiments.studies.posterior.methods import Options, noise_for, variants
from samplers import measurement
from samplers.posterior import Linearized, Operator, PosteriorMethod, ScoreMethod
from samplers.solver import NoiseLevelSolver
from sde_lib.batch import normal, sample_keys
from sde_lib.checks import check_name

N_SHOWN = 6  # images in the picture
RANKS = 20  # divides the number of samples and the truth: then both intervals are exact
Solvers = list[tuple[str, NoiseLevelSolver]]
OPERATORS: dict[str, Callable[[tuple[int, ...]], Operator]] = {
    "left_half": lambda shape: measurement.inpainting(MASKS["left"](*shape[:2])),
    "half_size": lambda shape: measurement.downsampling(2),
    "blur": lambda shape: measurement.blur(1.0),
    "grey": lambda shape: measurement.grey,
}
"""Operators by name, for images of a shape."""


class Result(NamedTuple):
    """The errors of a method's samples on the test images.

    Attributes:
        measurement: name of the operator.
        method: the method, with its options.
        solver: name of the solver.
        nfe: network evaluations of each sample.
        evaluations: nfe, and as many again for each product with the network's Jacobian.
        error: root mean square error of the mean of the samples, in pixels scaled to model space.
        std: root mean square of the samples' standard deviation: the error bar.
        misfit: root mean square of y - operator(x), in standard deviations of the noise.
        coverage_50: part of the values that lie within the interval of 50%.
        coverage_90: of 90%.
    """

    measurement: str
    method: str
    solver: str
    nfe: int
    evaluations: int
    error: float
    std: float
    misfit: float
    coverage_50: float
    coverage_90: float


class Setting(NamedTuple):
    """One way of sampling: the measurement, the method and the solver."""

    measurement: str
    operator: Operator
    label: str
    method: PosteriorMethod
    name: str
    solver: NoiseLevelSolver


class Drawn(NamedTuple):
    """Test images and their samples: pixels, scaled to model space."""

    truth: Float[np.ndarray, "n *shape"]
    samples: Float[np.ndarray, "n samples *shape"]


def check(model: Pipeline, options: Options) -> None:
    """Raises ValueError for a model without images, or with conditions, or wrong options."""
    model.check_diffuses_data("the study of posterior samplers")
    if len(model.shape) != 3:
        raise ValueError(
            f"the study of posterior samplers takes models of images, and {model.folder} has "
            f"samples of the shape {model.shape}: give a folder without a run, for mixtures"
        )
    if model.conditions.members or model.super_resolution:
        raise ValueError(
            "the study of posterior samplers takes an unconditional model, and this one has "
            "conditions: give another run"
        )
    if (options.n_samples + 1) % RANKS:
        raise ValueError(
            f"config.study.posterior.n_samples is {options.n_samples}: with images it must be "
            f"{RANKS - 1}, {2 * RANKS - 1}, ..., so that intervals of 50% and 90% are exact"
        )
    for name in options.operators:
        check_name("config.study.posterior.operators", name, OPERATORS)
        if (name == "grey" and model.image_shape[-1] == 1) or (
            name == "half_size" and any(side % 2 for side in model.image_shape[:2])
        ):
            raise ValueError(
                f"config.study.posterior.operators has {name!r}, which is not for images of the "
                f"shape {model.image_shape}: leave it out"
            )


def settings(model: Pipeline, options: Options, solvers: Solvers) -> list[Setting]:
    """The settings that are measured.

    A model in latents takes no replacement. Other linear methods take its decoder's tangent.
    """
    shape = model.image_shape
    even = not any(side % 2 for side in shape[:2])
    names = options.operators or ("left_half", *(("half_size",) if even else ()))
    train = model.dataset().train
    rows = np.linspace(0, len(train) - 1, min(len(train), 1000)).astype(int)
    data_std = float(np.std(_to_model(model, train[rows])))
    methods = list(variants(options.methods, data_std))
    if model.decoder:
        tangents = {
            label: Linearized(method)
            for label, method in methods
            if isinstance(method, ScoreMethod)
        }
        methods = [
            (label, tangents[label] if method.linear else method)
            for label, method in methods
            if label in tangents or not method.linear
        ]
    return [
        Setting(about, OPERATORS[about](shape), label, method, name, solver)
        for about in names
        for label, method in methods
        for name, solver in solvers
    ]


def measure(model: Pipeline, options: Options, setting: Setting) -> tuple[Drawn, Result]:
    """Samples of the first test images given their measurements, and what they say."""
    latents = _to_model(model, model.dataset().test[: options.n_measurements])
    truth = model.to_pixels(latents)
    seen = setting.operator(jnp.asarray(truth))
    noise = normal(sample_keys(model.key, len(truth)), seen.shape)
    y = np.asarray(seen + options.noise_std * noise)
    x, nfe = draw(model, options, setting, y)
    x = model.to_pixels(x)
    drawn = Drawn(truth, x.reshape(len(truth), -1, *model.image_shape))
    ranks = np.sum(drawn.samples < truth[:, None], axis=1) / (options.n_samples + 1)
    misfit = setting.operator(jnp.asarray(x)) - np.repeat(y, options.n_samples, axis=0)
    error = drawn.samples.mean(axis=1) - truth
    spread = drawn.samples.var(axis=1, ddof=1)
    return drawn, Result(
        setting.measurement,
        setting.label,
        setting.name,
        nfe,
        nfe * (1 + setting.method.products),
        float(np.sqrt(np.mean(error**2))),
        float(np.sqrt(np.mean(spread))),
        float(np.sqrt(np.mean(np.square(misfit)))) / options.noise_std,
        *(_coverage(ranks, level) for level in (0.5, 0.9)),
    )


def draw(
    model: Pipeline, options: Options, setting: Setting, y: Float[np.ndarray, "n *rows"]
) -> tuple[Float[np.ndarray, "samples *shape"], int]:
    """(n_samples samples for each measurement, network evaluations of each).

    Raises:
        FloatingPointError: a sample is not finite.
    """
    y = np.repeat(y, options.n_samples, axis=0)
    noise_std = noise_for(setting.method, options.noise_std)

    decoder = model.decoder
    params = model.params, decoder.autoencoder.params if decoder else None

    @jax.jit
    def run(params: Any, y: Array, first: Array) -> tuple[Array, Any]:
        def operator(x: Array) -> Array:
            return setting.operator(decoder.decoded(params[1], x) if decoder else x)

        score_fn = model.conditional_score(params[0], {})
        about = model.sde, score_fn, operator, y, (len(y), *model.shape), noise_std, first
        made = setting.method(model.key, setting.solver, *about)
        return made.x, made.nfe

    def lower(size: int) -> Any:
        rows = jax.ShapeDtypeStruct((size, *y.shape[1:]), jnp.float32)
        return run.lower(params, rows, jnp.int32(0))

    size = drawing.size_of(model, len(y), lower, getattr(setting.method, "n_particles", 1))
    padded = np.concatenate([y, y[:size]])
    parts = [
        devices.fetch(run(params, jnp.asarray(padded[k : k + size]), jnp.int32(k)))
        for k in range(0, len(y), size)
    ]
    x = np.concatenate([rows for rows, _ in parts])[: len(y)]
    if not np.isfinite(x).all():
        raise FloatingPointError(f"samples of {setting.label} are not finite: take more steps")
    return x, int(parts[0][1])


def save_pictures(
    path: Path, model: Pipeline, shown: dict[str, Drawn], about: dict[str, str]
) -> Path:
    """Saves the truth, and for each method the mean of the samples above their error bars."""
    drawn, to_images = next(iter(shown.values())), model.image_scaling.to_uint8
    columns = [to_images(drawn.truth[:N_SHOWN])]
    titles = ["truth"]
    for title, (_, samples) in shown.items():
        std = samples[:N_SHOWN].std(axis=1)
        columns.append(to_images(samples[:N_SHOWN].mean(axis=1)))
        columns.append((255 * np.minimum(std, 1.0)).astype(np.uint8))  # white: as wide as the data
        titles += [title, ""]  # the second column is its std: titles are wider than a column
    images = np.stack(columns, axis=1)
    return pictures.save_grid(
        path, images.reshape(-1, *images.shape[2:]), len(columns), about, titles
    )


def _coverage(ranks: Float[np.ndarray, "*n"], level: float) -> float:
    """The part of the ranks, in [0, 1], that lie in the middle interval of this probability."""
    tail = 0.5 * (1 - level)
    return float(np.mean((ranks >= tail - 1e-9) & (ranks < 1 - tail - 1e-9)))


def _to_model(model: Pipeline, images: Any) -> Float[np.ndarray, "n *shape"]:
    """Samples in model space, dequantized as in training: their posterior is the model's."""
    return np.asarray(model.scaling.to_model(model.key, jnp.asarray(images)), np.float32)
