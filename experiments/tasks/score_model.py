"""Score models, trained by any objective of sde_lib."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.data import latents
from experiments.data.augment import augment
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.evaluation import metrics as figures
from experiments.evaluation import spectrum as spectra
from experiments.evaluation.baselines import log_likelihoods
from experiments.pipeline import show
from experiments.pipeline.codec import CODEC
from experiments.pipeline.conditions import SOURCE, ClassLabel, Conditions, Text
from experiments.pipeline.likelihood import bits_per_dim, split_missing
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import devices
from experiments.runs import folder as folders
from experiments.tasks.base import Description, Records, Report, Values
from experiments.tasks.held_out import means, means_along_time
from experiments.training.objective import RAW_IMAGES, Loss
from experiments.training.optimizer import Adam, Project
from experiments.training.state import TrainState
from models import LearnedSchedule, LogVariance
from models.learned_schedule import SCHEDULE
from models.log_variance import LOG_VARIANCE, has_own
from sde_lib import loss_history, missing
from sde_lib.batch import fold_in, normal, sample_keys

"""loss(key, sde, score_fn, x, first_index=...) -> losses [B], metrics [B]"""
BESIDE = (SCHEDULE, CODEC)
"""Parts of the parameters that are not the network's."""
MAGNITUDE = "magnitude/"
"""Before the names of blocks, in names of metrics."""


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreModel:
    """The task of a score model.

    Attributes:
        model: the model without parameters.
        loss_of: the training loss, given the parameters (of which a learned schedule is a part).
        held_out_loss: the loss for held-out data, without stratification.
        adam: the optimizer.
        augment: probability of each of EDM's augmentations; 0 for none.
        schedule: a learned noise schedule, trained beside the network.
        history: (noise levels, terms kept of each) of a loss history; None: t is not drawn by it.
        n_classes: classes of the data that the model is conditioned on; 0 for none.
        records: loads the records of other runs that this one depends on.
        autoencoder: the run whose latents are the data; None for other data.
        complete: adds the parts of other runs (guides, base, decoder) to a trained model.
        subject: makes a Subject of evaluation/metrics.py of (pipeline, dataset, losses).
        n_shown: samples in a picture.
        hidden_fraction: share of the samples of which observed values are hidden at random, if the
            data have missing values.
        log_variance: a learned log variance of the loss, trained beside the network or as its part.
    """

    model: Pipeline
    loss_of: Callable[[Any], Loss]
    held_out_loss: Loss
    adam: Adam
    augment: float = 0.0
    schedule: LearnedSchedule | None = None
    history: tuple[int, int] | None = None
    n_classes: int = 0
    records: Callable[[], Records] = dict
    autoencoder: Path | None = None
    complete: Callable[[Pipeline, Path], Pipeline] = lambda model, folder: model
    subject: Callable[[Pipeline, Dataset, Any], figures.Subject] | None = None
    n_shown: int = 64
    hidden_fraction: float = 0.0
    log_variance: LogVariance | None = None

    @property
    def scaling(self) -> Scaling:
        return self.model.scaling

    @property
    def shape(self) -> tuple[int, ...]:
        return self.model.shape

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        return self.model.mesh

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam; a learned schedule has its own loss, so its gradient is clipped on its own."""
        adam = self.adam.create(self.projection)
        if self.schedule is None:
            return adam
        parts: Any = {"network": adam, SCHEDULE: adam}
        return optax.partition(
            parts, lambda params: {name: name if name in parts else "network" for name in params}
        )

    @property
    def projection(self) -> Project | None:
        """The projection of the network's own parameters, of all that are trained."""
        project = self.model.model.projection
        if project is None:
            return None

        def of_network(params: Any) -> Any:
            own = {name: value for name, value in params.items() if name not in BESIDE}
            return {**params, **project(own)}

        return of_network

    @property
    def reports(self) -> Mapping[str, Callable[[Any, int, Dataset, Path], Report]]:
        vectors = len(self.shape) == 1 and self.autoencoder is None
        has_flow = not self.model.conditions.has_source and self.model.only_eta != 1
        return (
            ({"likelihood": self.likelihood} if has_flow else {})
            | {
                "pictures": self.final_pictures,
                "quality": self.sample_quality,
            }
            | ({"baselines": self.baselines} if vectors else {"spectrum": self.spectrum})
        )

    @property
    def shared(self) -> dict[str, Any]:
        return self.held_out_shared

    @property
    def held_out_shared(self) -> dict[str, Any]:
        return self.model.conditions.shared

    def init(self, key: jax.Array) -> Any:
        shape = self.model.sde.state_shape((1, *self.model.diffused_shape))
        params = self.model.model.init(key, shape)
        if self.log_variance is not None and not has_own(params):
            own = self.log_variance.init(key, jnp.zeros(1))["params"]
            params = {**params, LOG_VARIANCE: own}
        if self.schedule is None:
            return params
        return {**params, SCHEDULE: self.schedule.init(key, jnp.zeros(()))["params"]}

    def init_carry(self) -> loss_history.LossHistory | None:
        return None if self.history is None else loss_history.empty(*self.history)

    def update_carry(self, carry: Any, aux: Any) -> Any:
        return loss_history.add(carry, *aux)

    def values(self, dataset: Dataset, split: Any) -> Values:
        return getattr(dataset, split), self.model.conditions.from_data(dataset, split)

    def example_conditions(self) -> dict[str, Any]:
        nulls = (member.null(1) for member in self.model.conditions.members)
        return {name: value for values in nulls for name, value in values.items()}

    def loss(self, params, keys, carry, first_index, x, conditions):
        model, labels = self.model, {}
        if self.augment:
            about = self.augment, first_index
            x, labels["augment_labels"] = augment(keys["augment"], x, *about)
            if RAW_IMAGES in conditions:  # transformed like x, by the same keys
                images = conditions[RAW_IMAGES].astype(x.dtype)
                images, _ = augment(keys["augment"], images, *about)
                conditions = conditions | {RAW_IMAGES: images}
        conditions = model.complete(conditions, keys["loss"], x, first_index, training=True)
        conditions = model.conditions.drop(keys["labels"], conditions, first_index) | labels
        options = {"first_index": first_index} | self.loss_options(keys, conditions)
        if model.missing:
            x, mask = missing.split_missing(x)
            mask = missing.hide(keys["labels"], mask, self.hidden_fraction, first_index)
            options["mask"] = conditions["observed"] = mask
        options |= {SOURCE: conditions.pop(SOURCE)} if model.conditions.source else {}
        score_fn = model.model.score_fn(params, True, keys["dropout"], **conditions)
        if carry is not None:
            options["probabilities"] = loss_history.probabilities(carry)
        losses, metrics = self.loss_of(params)(keys["loss"], model.sde, score_fn, x, **options)
        aux = {} if carry is None else (metrics["level"], metrics["bits"])
        return jnp.mean(losses), aux

    def loss_options(self, keys: Any, conditions: dict[str, Any]) -> dict[str, Any]:
        """Further arguments of the training loss, by a step's keys and the conditions.

        Conditions that the network does not take are taken out of them.
        """
        return {}

    def with_scaling(self, scaling: Scaling) -> Self:
        return dataclasses.replace(self, model=self.model.with_scaling(scaling))

    def prepare(self, dataset: Dataset, folder: Path) -> Self:
        if self.n_classes:
            dataset.check_labels(self.n_classes)
            members = self.model.conditions.members
            drawn = [member.labels for member in members if isinstance(member, ClassLabel)]
            dataset.check_trained(self.n_classes, *drawn)
        for name, (values, changed) in self.records().items():
            folders.record(folder / name, values, changed)
        if self.autoencoder is not None:
            latents.claim(dataset.latents, folder, self.autoencoder)
        return self.with_conditions(self.model.conditions.claim(dataset, folder))

    def with_conditions(self, conditions: Conditions) -> Self:
        """The task with other conditions, such as those whose data are known."""
        return dataclasses.replace(self, model=self.model.replace(conditions=conditions))

    def start(self, state: TrainState) -> TrainState:
        return state

    def metrics(self, params, key, batch, first_index):
        """The held-out loss of each sample, its "t", its "error", and magnitudes of activations.

        The error is the mean square of sigma score + z. It is 1 for a score of 0. Magnitudes are
        those of NoiseModel.magnitudes at the same t.
        """
        model, (x, given) = self.model, batch
        x = model.scaling.to_model_each(key, x, first_index)
        conditions: dict[str, Any] = model.complete(given, key, x, first_index, training=True)
        options: dict[str, Any] = {"first_index": first_index, "stratified": False}
        x, mask, conditions = split_missing(model, x, conditions)
        if mask is not None:
            options["mask"] = mask
        options |= {SOURCE: conditions.pop(SOURCE)} if model.conditions.source else {}
        params = devices.gather(model.mesh, params)
        score_fn = devices.spread(model.mesh, model.model.score_fn(params, **conditions))
        losses, metrics = self.held_out_loss(key, model.sde, score_fn, x, **options)
        found = {"loss": losses} | metrics
        if "t" in metrics and model.only_eta is None:  # couplings and sources have other noise
            # The noise is that of the loss, so XLA evaluates the network once.
            keys = fold_in(sample_keys(key, len(x), first_index), 1)
            z = normal(keys, model.sde.state_shape(x.shape))
            noised = model.sde.noised(x, metrics["t"], z), metrics["t"]
            sizes = model.model.magnitudes(params, *noised, **conditions)
            found |= {f"{MAGNITUDE}{block}": size for block, size in sizes.items()}
        return found

    def held_out(self, result: Mapping[str, Any]) -> dict[str, float]:
        summary = means(result, ("loss",))
        if "error" in result:
            summary |= means_along_time(self.model.sde, result["t"], "error", result["error"])
        sizes = [float(result[name].mean()) for name in result if name.startswith(MAGNITUDE)]
        if sizes:
            summary |= {"eval_magnitude_min": min(sizes), "eval_magnitude_max": max(sizes)}
        return summary

    def trained(self, params: Any, step: int, dataset: Dataset, folder: Path) -> Pipeline:
        """The model with its parameters, as `experiments.load` gives it."""
        about: Any = {"params": params, "step": step, "folder": folder}
        made = self.model.replace(dataset=lambda: dataset, **about)
        return self.complete(made, folder)

    def pictures(self, params: Any, step: int, dataset: Dataset, folder: Path) -> list[Path]:
        return [show.save_samples(self.trained(params, step, dataset, folder), self.n_shown)]

    def likelihood(self, params: Any, step: int, dataset: Dataset, folder: Path) -> Report:
        """Bits/dim of the test set."""
        model = self.trained(params, step, dataset, folder)
        bits = bits_per_dim(model, self.values(dataset, "test"))
        figures.save_likelihoods(model, bits)
        found = figures.likelihood_figures(model, bits)
        return Report([f"{name} {figure}" for name, figure in found.items()], found, [])

    def baselines(self, params: Any, step: int, dataset: Dataset, folder: Path) -> Report:
        """Log-likelihoods of the test set by classical density estimates of complete data."""
        if self.model.missing:
            return Report(["no baselines, as they are for complete data"], {}, [])
        train, test = (np.asarray(x[:], np.float64) for x in (dataset.train, dataset.test))
        mean, std = train.mean(0), train.std(0)
        found = log_likelihoods((train - mean) / std, (test - mean) / std, std)
        lines = [f"{name} {figure}" for name, figure in found.items()]
        return Report(lines, found, [])

    def final_pictures(self, params: Any, step: int, dataset: Dataset, folder: Path) -> Report:
        """A picture of samples, and one of the paths of some samples from noise to data."""
        model = self.trained(params, step, dataset, folder)
        paths = [show.save_samples(model, self.n_shown), show.save_paths(model)]
        return Report(list(map(str, paths)), {}, paths)

    def sample_quality(self, params: Any, step: int, dataset: Dataset, folder: Path) -> Report:
        """Distances of samples to the training data."""
        assert self.subject is not None
        subject = self.subject(self.trained(params, step, dataset, folder), dataset, self.metrics)
        found = figures.sample_quality(subject)
        lines = [f"{name} {figure}" for name, figure in found.items()]
        return Report(lines, {name: str(figure) for name, figure in found.items()}, [])

    def spectrum(self, params: Any, step: int, dataset: Dataset, folder: Path) -> Report:
        """The spectrum of samples beside the data's, by bands of frequencies."""
        model = self.trained(params, step, dataset, folder)
        found = spectra.figures(model, dataset, self.n_shown)
        return Report([f"{name} {figure}" for name, figure in found.items()], found, [])

    def describe(self) -> Description:
        limits = [
            "It has seen each training sample {passes} times on average and may have learned some "
            "by heart; nobody has looked for copies among its samples.",
            "There is no filter for safety: what the data hold, samples may hold.",
            "The pictures that this program saves say in their metadata that a model made them; "
            "copies need not. `--mode=detect` tells how well its samples can be recognised.",
        ]
        model = self.model
        if model.super_resolution:
            size = model.super_resolution.size
            limits.append(
                f"It makes images of {size} x {size} pixels larger, which another model draws."
            )
        if self.scaling.levels and self.scaling.dequantize:
            limits.append(
                "Its bits/dim are of data with uniform noise in each grey level, a bound from "
                "above on those of the levels, and of the averaged weights."
            )
        if self.n_classes:
            limits.append(f"It can be asked for a class of {self.n_classes}, and nothing else.")
        if any(isinstance(member, Text) for member in model.conditions.members):
            limits.append("It understands prompts as far as they are like its data's captions.")
        if self.autoencoder is not None:
            limits.append(
                f"It draws latents of the autoencoder in `{self.autoencoder}`, without "
                "which it is of no use, and nothing that this one cannot decode."
            )
        return Description(
            "diffusion model",
            "to draw samples like its data, to edit data and to score them",
            "--mode=sample --workdir=RUN",
            limits,
        )
