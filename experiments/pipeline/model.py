"""A trained model: the parts that sampling and scoring need, checked against each other."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, get_args

import jax
import numpy as np
from jax.sharding import Mesh

import samplers
import sde_lib
from experiments.data.dataset import Dataset
from experiments.data.latents import Decoder
from experiments.data.scaling import Scaling
from experiments.pipeline import autoguidance, guidance
from experiments.pipeline.autoguidance import Autoguidance
from experiments.pipeline.cascade import SuperResolution
from experiments.pipeline.classifier_free import ClassifierFree
from experiments.pipeline.codec import CODEC, Codec
from experiments.pipeline.conditions import SOURCE, Conditions
from experiments.pipeline.guidance import Guide
from experiments.pipeline.labels import as_labels
from experiments.runs import devices, parts
from experiments.runs.long.segments import InSegments
from models import NoiseModel
from samplers.base import Scores, check_noise_share
from samplers.registry import Sampler
from sde_lib import SDE, ScoreAndVariance, ScoreFn, variational
from sde_lib.checks import check_at_least, check_name, check_types
from sde_lib.likelihood import check_precision
from sde_lib.probes import Probe
from sde_lib.sde import score_and_variance

STAGE = 1 << 31  # folded in with an image's size: no sample has such an index
COUPLED = "a model that was trained with a coupling, a source or bridges"
ACCURACY = 0.001  # bits/dim: likelihoods are printed with three decimals
ARGUMENTS = {  # fields no program knows
    *("params", "seed", "step", "ema_length", "folder", "dataset", "decoder"),
}


def without_source(conditions: dict[str, Any]) -> dict[str, Any]:
    """The conditions that the network sees."""
    return {name: value for name, value in conditions.items() if name != SOURCE}


@dataclasses.dataclass(frozen=True)
class LikelihoodOptions:
    """The solver's accuracy or tolerances, and the estimator's probes (sde_lib.log_likelihood).

    Attributes:
        rtol: relative tolerance; None: sde_lib's default if atol is given.
        atol: absolute tolerance; None: sde_lib's default if rtol is given.
        probe: distribution of the probes, or "exact".
        n_probes: probes a sample.
        n_repeats: passes over the data, each with other noise and other probes.
        batch_size: samples at a time.
        accuracy: the solver's error in bits/dim, in place of tolerances; None: ACCURACY if there
            are no tolerances either.

    Raises:
        ValueError: an unknown probe, a tolerance or an accuracy that float32 cannot reach, both of
            them, or a count below 1.
    """

    rtol: float | None = None
    atol: float | None = None
    probe: Probe = "rademacher"
    n_probes: int = 1
    n_repeats: int = 1
    batch_size: int = 256
    accuracy: float | None = None

    def __post_init__(self):
        check_types(self, "config.eval.")
        check_name("config.eval.probe", self.probe, get_args(Probe))
        for name in ("n_probes", "n_repeats", "batch_size"):
            check_at_least(1, **{f"config.eval.{name}": getattr(self, name)})
        check_precision(self.rtol, self.atol, self.accuracy, "config.eval.")

    def log_likelihood(
        self,
        key: jax.Array,
        sde: SDE,
        score_fn: ScoreFn,
        x: jax.Array,
        first_index: int | jax.Array = 0,
        mask: jax.Array | None = None,
    ) -> sde_lib.LogLikelihood:
        """sde_lib.log_likelihood with these options."""
        accuracy = self.accuracy
        if (self.rtol, self.atol, accuracy) == (None, None, None):
            accuracy = ACCURACY
        how = self.rtol, self.atol, self.probe, self.n_probes, first_index, mask, accuracy
        return sde_lib.log_likelihood(key, sde, score_fn, x, *how)

    def to_accuracy(self, accuracy: float | None) -> Self:
        """The same options with this accuracy in place of theirs; None changes nothing."""
        if accuracy is None:
            return self
        return dataclasses.replace(self, rtol=None, atol=None, accuracy=accuracy)


def check_kind(sampler: Any, model: NoiseModel) -> None:
    """Raises ValueError for a sampler of another kind of model; a mean flow has a score too."""
    gives, needs = model.gives, getattr(sampler, "needs", "score")
    if gives == needs or (gives, needs) == ("mean_flow", "score"):
        return
    takes = "one that follows a score, such as 'edm'" if gives == "score" else repr(gives)
    raise ValueError(
        f"config.sampling.method makes the sampler {type(sampler).__name__}, which is for models "
        f"of the kind {needs!r}, and this model, by config.objective.name, is of the kind "
        f"{gives!r}: set config.sampling.method to {takes}"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A score model with its weights, and everything that sampling and scoring need beside it.

    Attributes:
        model: the network with its preconditioning and its SDE.
        params: the network's parameters, averaged over training.
        shape: of one sample in model space: (H, W, C), a latent's (h, w, c), or (D,).
        scaling: between the data and model space.
        sampler: draws the samples.
        dataset: loads the model's data, with labels and confidences if it is conditioned on them.
        conditions: of the samples, and in training.
        classifier_free: guidance by these conditions.
        auto: guidance by a worse model; None for none.
        guides: further guidance, applied in this order.
        likelihood: the options of likelihoods.
        decoder: from latents to images; None for models of the data themselves.
        codec: the map to the latents that diffuse, trained with the score model; None: the data do.
        super_resolution: the low-resolution condition; None for other models.
        base: the model whose samples a super-resolution model makes larger; None: test images.
        grey_levels: the model is one of the grey levels themselves (VDM).
        n_levels: noise levels of discrete training; None for continuous.
        bound_steps: steps of the chain for variational bounds and for Analytic-DPM's variance.
        mesh: the devices.
        seed: of all randomness.
        batch_size: samples drawn at a time; 0: as many as fit the memory (draw.batch_size).
        step: the training step that the parameters are from.
        ema_length: of their average, if it was chosen after training; None: the checkpoint's.
        folder: the run's folder; None without one.
        only_eta: the only amount of noise of samplers of this score: 0 after training with
            couplings or a source, 1 with bridges (sde_lib.transport); None: any.
        programs: compiled functions, see `program`.

    Raises:
        ValueError: parts that do not go together.
    """

    model: NoiseModel
    params: Any
    shape: tuple[int, ...]
    scaling: Scaling
    sampler: Sampler
    dataset: Callable[[], Dataset]
    conditions: Conditions = Conditions()
    classifier_free: ClassifierFree = ClassifierFree()
    auto: Autoguidance | None = None
    guides: tuple[Guide, ...] = ()
    likelihood: LikelihoodOptions = LikelihoodOptions()
    decoder: Decoder | None = None
    codec: Codec | None = None
    super_resolution: SuperResolution | None = None
    base: "TrainedModel | None" = None
    grey_levels: bool = False
    n_levels: int | None = None
    bound_steps: int = 1000
    mesh: Mesh = dataclasses.field(default_factory=devices.make_mesh)
    seed: int = 42
    batch_size: int = 64
    step: int = 0
    ema_length: float | None = None
    folder: Path | None = None
    only_eta: float | None = None
    programs: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        check_at_least(0, **{"config.sampling.batch_size": self.batch_size})
        check_at_least(0, 2**32 - 1, **{"config.seed": self.seed})  # JAX keeps 32 bits
        self.classifier_free.check(self.conditions)
        guides = guidance.of_sampler(self.guides, self.sampler, self.sde)
        guidance.check(guides, self.sde, getattr(self.sampler, "variance", None) == "learned")
        self._check_codec()
        self._check_few_steps()
        check_noise_share(self.sampler, self.only_eta, COUPLED)
        if self.guides:
            self.check_diffuses_data("config.guidance")
        needed = any(each and each.needs_noise_level for each in (self.classifier_free, self.auto))
        if needed and not self.sde.is_scalar:
            raise ValueError(
                "config.guidance.schedule and form go by the noise level, which the SDE "
                f"{type(self.sde).__name__} does not have: leave it out"
            )
        free = self.classifier_free
        if free.changes(self.conditions) and (free.channels or 1) > self.shape[-1]:
            raise ValueError(
                f"config.guidance.classifier_free.channels is {free.channels}, but the model's data"
                f" have {self.shape[-1]}: give at most that, or None for all"
            )
        for guide in self.guides:
            if isinstance(guide, guidance.Discriminator):
                guide.check_sampler(self.sampler)
                knows = bool(guide.n_classes) and self.conditions.has_classes
                if len(self.conditions.members) > knows or self.super_resolution:
                    raise ValueError(
                        "config.guidance.discriminator.run knows data alone, but this model has "
                        "conditions: it would guide to data of all kinds"
                    )

    def _check_codec(self) -> None:
        """Raises ValueError for parts that know noisy data, where it is latents that diffuse."""
        if self.codec is None:
            return
        seen = {
            "guidance": bool(self.guides or self.auto),
            "model.low_res_size": bool(self.super_resolution),
        }
        seen["image_condition.name"] = "image" in self.conditions.kinds
        for field in (field for field, given in seen.items() if given):
            raise ValueError(
                f"config.{field} is for noisy data, but with config.latent.name the model's noisy "
                "states are latents: leave one of them out"
            )
        if getattr(self.sampler, "log_prob", False) and not self.codec.exact:
            raise ValueError(
                "config.sampling.log_prob needs exact densities, and an encoder gives a bound of "
                "them: leave it out, or take config.latent.name='indm'"
            )

    def _check_few_steps(self) -> None:
        """Raises ValueError for a sampler or guidance that the network's output does not suit."""
        check_kind(self.sampler, self.model)
        needs = getattr(self.sampler, "needs", "score")
        guided = self.guides or self.auto or self.classifier_free.changes(self.conditions)
        if needs != "score" and guided:
            raise ValueError(
                f"config.guidance guides a score, and the sampler {type(self.sampler).__name__} "
                "does not follow one: leave it out"
            )

    @property
    def weights(self) -> Any:
        """The arrays that conditional_score takes: the parameters, and those of a guide model."""
        return {**self.params, autoguidance.KEY: self.auto.params} if self.auto else self.params

    @property
    def diffused_shape(self) -> tuple[int, ...]:
        """The shape of what diffuses: of a latent of the codec, or of a sample itself."""
        return self.codec.latent_shape(self.shape) if self.codec else self.shape

    @property
    def network(self) -> Any:
        """The linen module."""
        return self.model.network

    @property
    def version(self) -> str:
        """The step, and the length of the average if it was chosen, as names of files have it."""
        return f"{self.step}" if self.ema_length is None else f"{self.step}_ema{self.ema_length:g}"

    @property
    def missing(self) -> bool:
        """True for a model of data with missing values, which are NaN in its samples."""
        return self.scaling.missing

    def check_complete(self, what: str) -> None:
        """Raises ValueError, naming what needs complete data, for data with missing values."""
        if self.missing:
            raise ValueError(
                f"{what} needs complete data, but this model was trained with "
                "config.data.missing='mask': take a model of complete data"
            )

    def check_has_score(self, what: str) -> None:
        """Raises ValueError, naming what needs a score, for a consistency model."""
        if self.model.gives == "consistency":
            raise ValueError(
                f"{what} needs a score, but this model was trained with config.objective.name="
                "'consistency', and only maps noise to samples: take the run that it was "
                "initialised from, or train one with config.objective.name='denoising'"
            )

    def check_diffuses_data(self, what: str) -> None:
        """Raises ValueError, naming what needs scores of noisy data, for a model without these.

        Such is a model of few steps, one with a codec, or one with a coupling.
        """
        self.check_has_score(what)
        if self.codec:
            raise ValueError(
                f"{what} needs the score of noisy data, but this model was trained with "
                "config.latent.name, and has that of noisy latents: take a model without"
            )
        if self.only_eta is not None:
            raise ValueError(
                f"{what} needs the score of noisy data, which {COUPLED} does not have: take a "
                "model with independent noise"
            )

    def check_flow_from_noise(self, what: str) -> None:
        """Raises ValueError, naming what needs it, for a model without a flow from normal noise."""
        if self.conditions.has_source or self.only_eta == 1:
            raise ValueError(
                f"{what} needs the probability flow from normal noise, but this model was trained "
                "with a source or with bridges: take a model without config.source.name and "
                "config.objective.bridge"
            )

    @property
    def sde(self) -> SDE:
        """The forward SDE."""
        return self.model.sde

    @property
    def key(self) -> jax.Array:
        """The key of samples. Stages of a cascade differ in size and get independent keys."""
        key = jax.random.key(self.seed)
        return jax.random.fold_in(key, STAGE + self.shape[0]) if self.super_resolution else key

    def replace(self, **fields: Any) -> Self:
        """The same model with other fields, such as sampler, seed or guides."""
        made = dataclasses.replace(self, **fields)
        if all(n in ARGUMENTS or value is getattr(self, n) for n, value in fields.items()):
            object.__setattr__(made, "programs", self.programs)
        return made

    def with_scaling(self, scaling: Scaling) -> Self:
        """The model with the moments of its data, which its conditions may need too."""
        return self.replace(scaling=scaling, conditions=self.conditions.with_scaling(scaling))

    def program(self, make: Callable[..., Callable], *options: Any) -> InSegments:
        """The compiled function make(model, *options), made once; it shows its progress.

        It is shared with models that differ in their weights or seed alone. These are arguments of
        the function, and the model that `make` gets has no weights.
        """
        key = make, *options
        if key not in self.programs:
            self.programs[key] = InSegments(make(self.replace(params=None), *options), self.mesh)
        return self.programs[key]

    def asked(self, seed: int | None, label: Any, prompt: Any, condition: Any = None) -> Self:
        """The model with another seed, class or condition; in a cascade, its base has them too."""
        given = any(value is not None for value in (label, prompt, condition))
        if self.super_resolution and not self.base and given:
            raise ValueError(
                "test images are made larger, which have classes and other conditions already: "
                "leave out label, prompt and condition, or load the model with sampling.low_res, "
                "the folder of a run"
            )
        changed: dict[str, Any] = {} if seed is None else {"seed": seed}
        if self.base:
            changed["base"] = self.base.asked(seed, label, prompt, condition)
        guides: tuple[Any, ...] = self.guides
        if label is not None and any(getattr(guide, "n_classes", 0) for guide in guides):
            changed["guides"] = tuple(
                dataclasses.replace(guide, labels=as_labels(label))
                if getattr(guide, "n_classes", 0)
                else guide
                for guide in guides
            )
            if not self.conditions.has_classes:
                label = None  # the classifier alone knows classes
        if given:
            changed["conditions"] = self.conditions.asked(label, prompt, condition)
        made = self.replace(**changed)
        if changed.keys() <= {"seed", "conditions"}:  # their values are arguments of the programs
            object.__setattr__(made, "programs", self.programs)
        return made

    def score_fn(self, condition: Any = None, **conditions: Any) -> ScoreFn:
        """The score function of the model, without guidance; with a codec, of its noisy latents.

        Args:
            condition: values [B, ...] in the data's own units, by kind, or of the only kind.
            **conditions: arrays [B, ...] by the network's keyword, such as class_labels.
        """
        conditions |= self.conditions.given(condition)
        return self.model.score_fn(self.params, **without_source(conditions))

    def complete(
        self,
        conditions: dict[str, Any],
        key: jax.Array,
        x: jax.Array,
        first_index: int | jax.Array,
        training: bool = False,
    ) -> dict[str, Any]:
        """Inside jit: the network's conditions of samples x in model space.

        Args:
            conditions: as Conditions.from_data has them.
            key: of what is random in the conditions.
            x: [B, ...], of which conditions may be made.
            first_index: of the samples.
            training: the noise of a super-resolution model's condition is that of training.
        """
        conditions = self.conditions.complete(conditions, key, x, first_index)
        if not self.super_resolution:
            return conditions
        low_res = self.super_resolution
        made = low_res.training_conditions if training else low_res.conditions
        return conditions | made(key, x, first_index)

    def encoded(
        self, params: Any, key: jax.Array, x: jax.Array, first_index: Any = 0
    ) -> tuple[jax.Array, jax.Array | float]:
        """Inside jit: what diffuses, of samples x, and log p(x) less its log density, in nats."""
        if self.codec is None:
            return x, 0.0
        own = devices.gather(self.mesh, params[CODEC])
        made = self.codec.encode(own, self.sde, key, x, first_index)
        return made.z, made.log_ratio

    def decoded(self, params: Any, z: jax.Array) -> jax.Array:
        """Inside jit: samples of states [..., B, *diffused_shape] at t = 0."""
        z = self.sde.data_of(z)
        if self.codec is None or not z.size:
            return z
        own, shape = devices.gather(self.mesh, params[CODEC]), self.diffused_shape
        x = self.codec.decode(own, z.reshape(-1, *shape))
        return x.reshape(*z.shape[: z.ndim - len(shape)], *x.shape[1:])

    def test_samples(self, n: int) -> tuple[Any, dict[str, Any]]:
        """n samples at even distances in the test set, all if it has fewer; and their conditions.

        Both are as the data set has them.
        """
        dataset = self.dataset()
        rows = np.linspace(0, len(dataset.test) - 1, min(n, len(dataset.test))).astype(int)
        test = dataset.test, self.conditions.from_data(dataset, "test")
        return jax.tree.map(lambda leaf: leaf[rows], test)

    def sample_conditions(self, indices: np.ndarray) -> dict[str, Any]:
        """The conditions that the samples of these indices are drawn with, [B, ...]."""
        return self.conditions.for_samples(indices, self.dataset)

    def to_images(self, x: Any) -> np.ndarray:
        """Samples [..., *shape] as uint8 images; latents are decoded."""
        return self.image_scaling.to_uint8(self.to_pixels(np.asarray(x)))

    def from_images(self, images: Any) -> np.ndarray:
        """Images [N, H, W, C] of 0 to 255 as samples [N, *shape]: the inverse of to_images."""
        x = self.image_scaling.from_uint8(images)
        return self.decoder.encode(x) if self.decoder else x

    def to_pixels(self, x: Any) -> Any:
        """Samples [..., *shape] as the values that image_scaling scales: latents are decoded."""
        return self.decoder.decode(x) if self.decoder else x

    @property
    def image_scaling(self) -> Scaling:
        """The scaling of samples, or of the images that they are latents of."""
        return self.decoder.scaling if self.decoder else self.scaling

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one of its images: that of a sample, or of a decoded latent."""
        return self.decoder.image_shape(self.shape) if self.decoder else self.shape

    def to_data(self, x: Any) -> np.ndarray:
        """Samples as the data set has its own: grey levels of images, floats otherwise."""
        return self.scaling.to_grey(np.asarray(x))

    def flow_tolerances(self) -> dict[str, Any]:
        """Tolerances of the probability flow: the sampler's, if it follows the flow."""
        if not isinstance(self.sampler, samplers.ProbabilityFlow):
            return {}
        return {"rtol": self.sampler.rtol, "atol": self.sampler.atol}

    def chain(self) -> np.ndarray:
        """The log-SNRs of the chain of bound_steps steps. Raises ValueError if there is none."""
        check_at_least(2, **{"config.eval.bound_steps": self.bound_steps})
        return variational.chain(self.sde, self.bound_steps, self.n_levels)

    def score_of(self, params: Any, conditions: dict[str, Any]) -> ScoreFn:
        """Inside jit: the score of samples with these conditions, evaluated on all devices."""
        return self._spread(self.model, params, conditions)

    def _spread(self, model: NoiseModel, params: Any, conditions: dict[str, Any]) -> ScoreFn:
        params, seen = devices.gather(self.mesh, params), without_source(conditions)
        return devices.spread(self.mesh, model.score_fn(params, **seen))

    def corrected_score(self, weights: Any, conditions: dict[str, Any]) -> ScoreFn:
        """Inside jit: score_of with autoguidance, if the model is sampled with it."""
        if not self.auto:
            return self.score_of(weights, conditions)
        own = {name: part for name, part in weights.items() if name != autoguidance.KEY}
        guide_fn = self._spread(self.auto.model, weights[autoguidance.KEY], conditions)
        return self.auto.guide(self.score_of(own, conditions), guide_fn, self.sde)

    def conditional_score(self, weights: Any, conditions: dict[str, Any]) -> ScoreFn:
        """Inside jit: the same with classifier-free guidance, if the model is sampled with it."""
        free = self.classifier_free
        if not free.changes(self.conditions):
            return self.corrected_score(weights, conditions)
        weights = devices.gather(self.mesh, weights)  # here, and not in every call
        learned = isinstance(self.corrected_score(weights, conditions), ScoreAndVariance)

        def score(x: jax.Array, t: jax.Array, conditions: dict[str, Any]) -> Any:
            fn = self.corrected_score(weights, conditions)
            return score_and_variance(fn)(x, t) if learned else fn(x, t)

        guided = free.guide(score, conditions, self.conditions, self.sde)
        return ScoreAndVariance(guided) if learned else guided

    def guided(self, scores: Scores, guide_params: Sequence[Any], indices: jax.Array) -> Scores:
        """Inside jit: the scores of the samples of these indices with all guides applied."""
        own = devices.gather(self.mesh, guide_params)
        guides = guidance.of_sampler(self.guides, self.sampler, self.sde)
        scores = guidance.apply(guides, scores, own, self.sde, indices)
        return jax.tree.map(partial(devices.spread, self.mesh), scores)

    def identity(self) -> str:
        """A digest of all that decides on samples, but for the seed and their number."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        guides = [
            [type(guide).__name__, *(v for v in vars(guide).values() if not callable(v))]
            for guide in self.guides
        ]
        values = self.sample_conditions(np.arange(1024))
        negative = self.conditions.negative(values) if values else None
        made = [self.base.identity() if self.base else "", str(self.super_resolution or "")]
        if getattr(self.sampler, "variance", None) == "analytic":
            made.append(str(self.bound_steps))
        options = [self.sampler, self.classifier_free, guides]
        if self.auto:
            options += [self.auto.weight, self.auto.schedule, self.auto.form]
        return parts.digest([self.weights, options, values, negative, made])
