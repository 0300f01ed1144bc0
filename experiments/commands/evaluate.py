"""Mode evaluate: how good each checkpoint is; mode stats: what its samples are compared with.

What takes long is kept in parts: an evaluation that was stopped goes on where it was.
"""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from experiments import build
from experiments.commands import train
from experiments.data import data, latent
from experiments.data.dataset import identity
from experiments.data.sources.lazy_images import LazyImages
from experiments.evaluation import bound, features, held_out, likelihood, quality
from experiments.evaluation.features import FeatureFunction
from experiments.evaluation.quality import Moments
from experiments.pipeline import cascade, guides, sample
from experiments.runs import hosts, model_card, parts, sharding
from experiments.runs import workdir as workdirs
from experiments.runs.parts import Part, Parts
from experiments.training import state
from models.config import Config
from sde_lib.checks import check_at_least, check_name

PAIRED = 10_000  # images of each set at most in the statistics that compare all pairs
KERNEL_SUBSET = 1000  # images of KID's subsets, as published
LEAST = 20  # samples, for all of the statistics
SAVE_EVERY = 50  # batches of data between two savings of their statistics


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number, its error if it has one, and what else is to be said with it."""

    value: float
    error: float | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        digits = ".3f" if abs(self.value) >= 0.1 else ".2g"
        error = "" if self.error is None else f" +- {self.error:{digits}}"
        about = ", ".join(f"{name} {value}" for name, value in self.about.items())
        return f"{self.value:{digits}}{error}" + (f" ({about})" if about else "")


Figures = dict[str, Figure]


def run(config: Config, workdir: Path) -> None:
    """Evaluates the last checkpoint, or all: prints the figures, and writes evaluation.jsonl.

    Raises:
        ValueError: no checkpoint, or too few images for a statistic.
        FloatingPointError: a likelihood or a sample is not finite.
    """
    _check(config)
    options = config.eval
    steps = state.saved_steps(workdir)
    dataset = train.load_data(config)
    measures = {
        "enable_loss": test_loss,
        "enable_bpd": test_bits,
        "enable_bound": test_bound,
        "enable_sampling": sample_quality,
    }
    if config.training.objective == "vdm":
        measures["enable_bound"] = vdm_bound
    for step in steps if options.checkpoints == "all" else steps[-1:]:
        model, params, _ = state.load(config, workdir, step)
        if options.enable_sampling:
            guides.load(config, build.make_sde(config), params)
        figures: Figures = {}
        for name, measure in measures.items():
            if options[name]:
                new = measure(config, model, params, dataset, workdir, step)
                for what, figure in new.items():
                    print(f"step {step}: {what} {figure}")
                figures |= new
        _record(config, workdir, step, figures)
        model_card.update(workdir, step, {name: str(figure) for name, figure in figures.items()})


def _check(config: Config) -> None:
    """Raises ValueError for what would otherwise fail after an hour."""
    options = config.eval
    check_name("config.eval.checkpoints", options.checkpoints, ("last", "all"))
    check_at_least(1, **{"config.eval.n_repeats": options.n_repeats})
    if options.enable_bound:
        check_at_least(2, **{"config.eval.bound_steps": options.bound_steps})
        bound.log_snrs(config)
    if options.enable_bound and config.data.autoencoder:
        raise ValueError(
            "config.eval.enable_bound is of images, and the data are latents of "
            "config.data.autoencoder: set it to False"
        )
    if options.enable_sampling:
        check_at_least(LEAST, **{"config.eval.num_samples": options.num_samples})
        feature_function(config)


def run_stats(config: Config, workdir: Path) -> None:
    """Makes the statistics of the training data that samples are compared with."""
    dataset = data.load_images(config)
    made = reference(config, dataset, feature_function(config), workdir)
    print(f"{made.moments.n} of {config.data.dataset!r}: {made.path}")


def test_loss(config, model: nn.Module, params: Any, dataset, workdir: Path, step: int) -> Figures:
    """The training loss of the averaged model on the test set, without dropout."""
    mesh, batch = sharding.make_mesh(config), held_out.make_losses(config, model, dataset)
    values = held_out.values(config, dataset)
    inputs = [config.eval.batch_size, params, identity(dataset.test), values[1]]
    part = _parts(config, workdir, step, "loss", inputs)
    losses = parts.passes(config, mesh, values, partial(batch, params), part)["loss"]
    return {"test loss": Figure(losses.mean(), losses.std(ddof=1) / np.sqrt(len(losses)))}


def test_bits(config, model: nn.Module, params: Any, dataset, workdir: Path, step: int) -> Figures:
    """Bits/dim of the test set."""
    options = config.eval
    inputs = [options.batch_size, options.rtol, options.atol, options.probe, options.n_probes]
    inputs += [params, identity(dataset.test), held_out.values(config, dataset)[1]]
    inputs += [cascade.given(config)]
    part = _parts(config, workdir, step, "bits", inputs)
    bits = likelihood.bits_per_dim(config, model, params, dataset, part)
    about = {"nfe": bits.nfe} | ({"given": bits.given} if bits.given else {})
    return {likelihood.name(config): Figure(bits.mean, bits.error, about)}


def vdm_bound(config, model: nn.Module, params: Any, dataset, workdir: Path, step: int) -> Figures:
    """VDM's bound on the bits/dim of the test set, term by term."""
    options = config.eval
    inputs = [options.batch_size, options.bound_steps, params, identity(dataset.test)]
    inputs += [held_out.values(config, dataset)[1], cascade.given(config)]
    part = _parts(config, workdir, step, "bound", inputs)
    terms = likelihood.continuous_bound(config, model, params, dataset, part)
    bits = np.sum([*terms.values()], axis=0)
    about = {name: f"{values.mean():.4f}" for name, values in terms.items()}
    error = bits.std(ddof=1) / np.sqrt(len(bits))
    return {"vdm bound bits/dim": Figure(bits.mean(), error, about)}


def test_bound(config, model: nn.Module, params: Any, dataset, workdir: Path, step: int) -> Figures:
    """The variational bound in bits/dim; all of its terms are in <workdir>/bound_<step>.csv."""
    variance = bound.variance_of(config, model, params, workdir)
    inputs = [config.eval.batch_size, bound.log_snrs(config), variance, cascade.given(config)]
    inputs += [params, identity(dataset.test), held_out.values(config, dataset)[1]]
    part = _parts(config, workdir, step, "bound", inputs)
    bits = bound.bits_per_dim(config, model, params, dataset, variance, part)
    terms = {"prior": bits.prior, "diffusion": bits.diffusion.sum()}
    terms |= {"reconstruction": bits.reconstruction}
    rows = zip(bound.log_snrs(config), [bits.reconstruction, *bits.diffusion], strict=True)
    workdirs.write_table(workdir / f"bound_{step}.csv", ["log_snr", "bits_per_dim"], list(rows))
    about = {name: round(float(value), 5) for name, value in terms.items()}
    return {"bound bits/dim": Figure(bits.mean, bits.error, about)}


def sample_quality(
    config, model: nn.Module, params: Any, dataset, workdir: Path, step: int
) -> Figures:
    """Distances between samples and training data, by the features of config.eval.features.

    Latents are decoded, and compared with the images.
    """
    if config.data.autoencoder:
        dataset = data.load_images(config)
    fn, decode = feature_function(config), latent.make_decode(config, workdir)
    truth = reference(config, dataset, fn, workdir)
    _, guide_params = guides.load(config, build.make_sde(config), params)
    inputs = [sample.settings(config), params, guide_params]
    part = _parts(config, workdir, step, "samples", inputs)
    mesh, n = sharding.make_mesh(config), config.eval.num_samples
    size = sharding.round_up(mesh, config.sampling.batch_size)
    draw = sample.make_draw(config, model, params, size, workdir=workdir)

    def images(first: int) -> np.ndarray:
        return decode(sharding.fetch(draw(first).x))

    moments, values = sampled_features(config, dataset.levels, fn, images, size, n, part)
    about = {"samples": n, "data": truth.moments.n, "features": f"{fn.name}-{fn.version}"}
    about |= {"seed": config.seed}

    distance = distances(moments, values["features"], truth, config.seed)
    kernel = distance.kernel, distance.kernel_error, about | {"subset": distance.subset}
    closeness = quality.precision_recall(truth.features, values["features"][:PAIRED])
    figures = {
        fn.figure("frechet_distance"): Figure(distance.frechet, None, about),
        fn.figure("kernel_distance"): Figure(*kernel),
        fn.figure("precision"): Figure(closeness.precision, None, about),
        fn.figure("recall"): Figure(closeness.recall, None, about),
    }
    if "logits" in values:
        figures["inception_score"] = Figure(*quality.inception_score(values["logits"]), about)
    return figures


def sampled_features(
    config: Config,
    levels: int | None,
    fn: FeatureFunction,
    draw: Callable[[int], jax.Array | np.ndarray],
    size: int,
    n: int,
    part: Part = parts.always,
) -> tuple[Moments, parts.Arrays]:
    """The moments of the features of n samples, and their features and logits, [n, ...].

    Args:
        config: with the data's range and the mesh.
        levels: grey levels of the data, None for points.
        fn: gives the features.
        draw: the samples, as many as `size`, from an index on.
        size: of a batch.
        n: how many samples count.
        part: keeps each batch's samples, and their features.

    Raises:
        FloatingPointError: a sample is not finite.
    """
    mesh, moments, rows = sharding.make_mesh(config), None, []

    def images(first: int) -> parts.Arrays:
        x = sharding.fetch(draw(first))
        sample.check_finite(x)
        return {"images": data.to_grey(config, levels, x)}

    bar = tqdm(range(0, n, size), unit="batch", desc="samples", leave=None, disable=None)
    for first in bar:
        made = part(f"images_{first}_{size}", partial(images, first))["images"]
        measure = partial(_features, mesh, levels, fn, made, np.arange(len(made)))
        row = part(f"{fn.name}-{fn.version}_{first}_{size}", measure)
        row = {name: values[: n - first] for name, values in row.items()}
        new = Moments.of(row["features"])
        moments = moments.merge(new) if moments else new
        rows.append(row)
    assert moments is not None
    return moments, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


class Reference(NamedTuple):
    """What samples are compared with: moments of all training data, features of some."""

    path: Path
    moments: Moments
    features: np.ndarray


class Distances(NamedTuple):
    """Between samples and data: kernel_error is the standard error, subset what it is made of."""

    frechet: float
    kernel: float
    kernel_error: float
    subset: int


def distances(moments: Moments, rows: np.ndarray, truth: Reference, seed: int) -> Distances:
    """From the moments of all samples, and the features of PAIRED at most; seed: of subsets."""
    paired = rows[:PAIRED], truth.features
    subset = min(KERNEL_SUBSET, min(map(len, paired)) // 2)
    kernel = quality.kernel_distance(*paired, subset_size=subset, seed=seed)
    return Distances(quality.frechet_distance(moments, truth.moments), *kernel, subset)


def reference(
    config: Config, dataset: data.Dataset, fn: FeatureFunction, workdir: Path
) -> Reference:
    """Made once for a data set and a feature function, and kept beside the runs, in stats/."""
    values = dataset.train
    mesh, n, size = sharding.make_mesh(config), len(values), config.eval.batch_size
    made_of = parts.digest([fn.name, fn.version, dataset.levels, identity(values)])
    name = f"{config.data.dataset}-{fn.name}-{made_of}.npz"
    path = workdir.parent / "stats" / name
    kept = np.linspace(0, n - 1, min(n, PAIRED)).astype(int)
    moments, rows = None, []
    if hosts.agree(path.exists()):
        with np.load(path) as saved:
            moments, rows = (
                Moments(int(saved["n"]), saved["mean"], saved["scatter"]),
                [saved["rows"]],
            )
    firsts = range(moments.n if moments else 0, n, size)
    for k, first in enumerate(tqdm(firsts, unit="batch", desc="data", disable=None), 1):
        indices = np.arange(first, min(first + size, n))
        new = _features(mesh, dataset.levels, fn, values, indices)["features"]
        moments = moments.merge(Moments.of(new)) if moments else Moments.of(new)
        rows.append(new[np.isin(indices, kept)])
        if k % SAVE_EVERY == 0 or k == len(firsts):
            rows = [np.concatenate(rows)]
            parts.save(path, rows=rows[0], **dataclasses.asdict(moments))
    assert moments is not None
    return Reference(path, moments, rows[0])


def feature_function(config: Config) -> FeatureFunction:
    """By config.eval.features, a file of weights or ""; points are their own features."""
    if len(build.image_shape(config)) > 1:
        return features.create(config.eval.features)
    return FeatureFunction("coordinates", "0", lambda _, points: (points, None), ())


def _features(
    mesh: Mesh,
    levels: int | None,
    fn: FeatureFunction,
    values: np.ndarray | LazyImages,
    indices: np.ndarray,
) -> parts.Arrays:
    """Features, and logits where the function has some, of values[indices]: grey levels, points."""
    padded = np.resize(indices, sharding.round_up(mesh, len(indices)))
    batch = sharding.put(sharding.of_batch(mesh), values, padded)
    if levels is not None:
        batch = jnp.round(batch * (255 / (levels - 1))).astype(jnp.uint8)
    rows, logits = fn(batch)
    result = sharding.fetch({"features": rows, "logits": logits})
    return {name: leaf[: len(indices)] for name, leaf in result.items() if leaf is not None}


def _parts(config: Config, workdir: Path, step: int, kind: str, inputs: Any) -> Parts:
    return Parts(workdir / "evaluation" / str(step), kind, [config.seed, inputs])


def _record(config: Config, workdir: Path, step: int, figures: Figures) -> None:
    """A line of evaluation.jsonl, in place of an older one of the same step and settings."""
    path = workdir / "evaluation.jsonl"
    key = {name: config[name].to_dict() for name in ("eval", "sampling")}
    del key["eval"]["checkpoints"]
    key = json.loads(json.dumps({"step": step, "seed": config.seed, **key}))
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    lines = [line for line in lines if {name: line[name] for name in key} != key]
    lines.append(key | {name: dataclasses.asdict(figure) for name, figure in figures.items()})
    workdirs.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
