"""The weights of another run, restored from its checkpoints or averages."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

import models
from experiments.build import related
from experiments.build.components import (
    codecs,
    diffusion,
    networks,
    objectives,
    optimization,
    sampling,
    specs,
)
from experiments.pipeline.pipeline import Pipeline
from experiments.tasks.autoencoder import Autoencoder, Losses
from experiments.tasks.classifier import Classifier
from experiments.tasks.discriminator import Discriminator
from experiments.tasks.joint import JointModel
from experiments.tasks.score_model import ScoreModel
from experiments.training import imported
from experiments.training.averages import snapshots
from experiments.training.averages.power import check_lengths
from experiments.training.checkpoints import Checkpoints, saved_steps
from experiments.training.objective import Objective
from experiments.training.state import abstract_state, restore
from models.config import Config


def steps(folder: Path, field: str = "") -> list[int]:
    """The steps that a run has weights of, in order; `field` names the folder in the error.

    Raises:
        ValueError: there is none.
    """
    published = imported.step_of(folder)
    found = sorted({*saved_steps(folder), *(() if published is None else (published,))})
    if not found:
        if field:
            raise ValueError(
                f"{folder}, which {field} names, holds no checkpoints: train that run first, or "
                "give a trained one"
            )
        raise ValueError(f"{folder} holds no checkpoints: train first, or give the --workdir")
    return found


def weights(
    theirs: Config,
    folder: Path,
    step: int | None = None,
    length: float | None = None,
    field: str = "",
) -> tuple[Any, int]:
    """The averaged weights of a run, and the step that they are from: the last, or `step`.

    Args:
        theirs: the run's config.
        folder: the run's.
        step: of the checkpoint; None: the last.
        length: of the average, made of the run's snapshots; None: the average of the checkpoint.
        field: that names the folder, for errors; "": --workdir.

    Raises:
        ValueError: there are no weights, or none that can be read, or none of this length.
    """
    there = steps(folder, field)
    if length is not None:
        check_length(theirs, folder, length, step)
    if step is not None and step not in there:
        raise ValueError(f"{folder} has no checkpoint of step {step}: it has {there}")
    task, n_averages = skeleton(theirs), optimization.average(theirs).count
    like = abstract_state(task, theirs.seed, optimization.mesh(theirs), n_averages)
    published = imported.step_of(folder)
    if published is not None and published == (there[-1] if step is None else step):
        return imported.read(folder, like.ema_params), published
    with closing(Checkpoints(folder, read_only=True)) as checkpoints:
        state = restore(checkpoints, task, like, step)
    assert state is not None  # restore raises where there are checkpoints and none can be read
    if length is None:
        return state.ema_params, int(state.step)
    sources = _sources(theirs, folder, int(state.step), (state.ema_params, *state.averages))
    arrays = snapshots.average(sources, length)
    places: Any = flatten_dict(jax.tree.map(lambda leaf: leaf.sharding, state.ema_params), sep="/")
    return unflatten_dict(jax.device_put(arrays, places), sep="/"), int(state.step)


def check_length(theirs: Config, folder: Path, length: float, step: int | None = None) -> None:
    """Raises ValueError for a length of the average that a run's checkpoint cannot give."""
    check_lengths("config.eval.ema_length", (length,))
    there, profile = steps(folder), theirs.model.ema_profile
    if profile != "power" or imported.step_of(folder) == (there[-1] if step is None else step):
        raise ValueError(
            f"config.eval.ema_length is {length}, but the weights in {folder} come with one average"
            " alone, without snapshots: leave it out, or train a run with "
            "config.model.ema_profile='power'"
        )
    snapshots.shares(_sources(theirs, folder, there[-1] if step is None else step), length)


def _sources(
    theirs: Config, folder: Path, step: int, averages: Sequence[Any] = ()
) -> list[snapshots.Source]:
    """The averages of a run up to a checkpoint's step: of its snapshots, and the checkpoint's."""
    earlier = [source for source in snapshots.stored(folder) if source.step < step]
    lengths = tuple(theirs.model.ema_lengths)
    last = snapshots.Source(step, lengths, lambda: list(map(snapshots.named, averages)))
    return [*earlier, last]


def skeleton(theirs: Config) -> Objective:
    """A run's task without other runs' weights: enough for the shapes of its state."""
    its_shape, scaling, adam = (
        related.shape(theirs),
        specs.scaling(theirs),
        optimization.adam(theirs),
    )
    mesh, size = optimization.mesh(theirs), theirs.eval.batch_size
    kind = models.kind(theirs)
    if kind == "autoencoder":
        options = theirs.autoencoder.adversarial
        losses = Losses(adversarial_weight=options.weight or 0.0)
        about = losses, None, adam, mesh, size, {}
        return Autoencoder(models.create(theirs), its_shape, scaling, *about)
    codec = codecs.codec(theirs)
    seen = codec.latent_shape(its_shape) if codec else its_shape
    model = networks.noise_model(theirs, diffusion.sde(theirs), seen)
    if kind == "score":
        no_data: Any = None
        about = model, None, its_shape, scaling, sampling.sampler(theirs), no_data
        pipeline = Pipeline(*about, codec=codec, mesh=mesh)
        beside: Any = {
            "schedule": diffusion.learned_schedule(theirs),
            "history": objectives.loss_history(theirs),
            "log_variance": objectives.log_variance(theirs),
        }
        loss: Any = None
        make = JointModel if codec else ScoreModel
        return make(pipeline, loss, loss, adam, **beside)
    about = model, its_shape, scaling, theirs.data.num_classes, None, adam, mesh, 0, size
    if kind == "discriminator":
        frozen = (lambda: None) if theirs.model.pretrained else None
        return Discriminator(*about, encoder=frozen)
    return Classifier(*about)
