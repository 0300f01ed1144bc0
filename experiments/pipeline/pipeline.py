"""A trained model as one object, whatever it came from.

    model = experiments.load("runs/digits")
    x = model.sample(16, seed=0)                 # [16, *model.shape], in model space
    images = model.to_images(x)                  # uint8, 0 to 255
    model.bits_per_dim(model.to_data(x)).mean    # of grey levels as in the data set
    latent = model.encode(x)
    filled = model.impute(table)                 # NaN are missing values
    score_fn = model.score_fn(class_labels=labels)

draw.py draws a sample, likelihood.py scores data, edit/ edits images.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

import samplers
import sde_lib
from experiments.data.lazy_arrays import check_finite
from experiments.pipeline import draw, likelihood
from experiments.pipeline import edit as edits
from experiments.pipeline.likelihood import BitsPerDim
from experiments.pipeline.model import TrainedModel
from experiments.runs import progress
from samplers import editing
from samplers.registry import Sampler


class Pipeline(TrainedModel):
    """A trained model with the methods of a user: sample, score, encode, decode and edit."""

    def sample(
        self,
        n: int,
        seed: int | None = None,
        sampler: Sampler | str | None = None,
        label: int | Sequence[int] | None = None,
        prompt: str | Sequence[str] | None = None,
        guidance: float | None = None,
        condition: Any = None,
        log_prob: bool = False,
    ) -> Any:
        """n samples in model space, [n, *shape]. `to_images` makes images of them.

        Args:
            n: how many.
            seed: of the randomness; None: the model's.
            sampler: a sampler, or its name; None: the model's.
            label: the class to draw, or several in turn; of a model with classes.
            prompt: a text to draw, or several in turn; of a model with texts.
            guidance: the scale of autoguidance, or of classifier-free guidance without a guide
                model.
            condition: values to draw samples for, in turn: those of the model's one kind, or a
                mapping by kind, such as {"vector": [[0.5, 2.0]]}. None: as the config says.
            log_prob: return (samples, log densities [n] in nats, in model space), by the
                probability flow (samplers.ProbabilityFlow, whose docstring has the memory).

        Raises:
            ValueError: a condition that the model does not have, or that its images already have;
                log_prob with another sampler than the probability flow.
            FloatingPointError: a sample is not finite.
        """
        model = self.set(seed, sampler, label, prompt, guidance, condition)
        if not log_prob:
            return draw.draw_all(model, n)[0]
        x, _, densities = draw.draw_all(model.with_log_prob(sampler is not None), n)
        return x, densities

    def set(
        self,
        seed: int | None = None,
        sampler: Sampler | str | None = None,
        label: int | Sequence[int] | None = None,
        prompt: str | Sequence[str] | None = None,
        guidance: float | None = None,
        condition: Any = None,
    ) -> Self:
        """The model with what `sample` and `edit` are asked for; the arguments are theirs."""
        model = self.asked(seed, label, prompt, condition)
        if sampler is not None:
            made = samplers.create(sampler) if isinstance(sampler, str) else sampler
            model = model.replace(sampler=made)
        if guidance is not None:
            name = "auto" if self.auto else "classifier_free"
            guide: Any = dataclasses.replace(getattr(self, name), weight=guidance)
            model = model.replace(**{name: guide})
        return model

    def with_log_prob(self, chosen: bool) -> Self:
        """The model whose sampler gives log densities: its own flow, or the default one.

        Raises:
            ValueError: the sampler was chosen, and is not the probability flow.
        """
        own = isinstance(self.sampler, samplers.ProbabilityFlow)
        if chosen and not own:
            raise ValueError(
                f"log_prob is given by the probability flow, not by {type(self.sampler).__name__}: "
                "take sampler='probability_flow', or leave out one of them"
            )
        flow: Any = self.sampler if own else samplers.ProbabilityFlow()
        return self.replace(sampler=dataclasses.replace(flow, log_prob=True, denoise=False))

    def log_likelihood(
        self, x: Any, condition: Any = None, accuracy: float | None = None, **conditions: Any
    ) -> sde_lib.LogLikelihood:
        """Log densities in nats of samples x in model space, by the probability-flow ODE.

        Args:
            x: [N, *shape]. Of a model of data with missing values, NaN in x is missing: the density
                is that of the observed part.
            condition: as of `sample`, a row for each sample or one for all.
            accuracy: the solver's error in bits/dim; None: as self.likelihood says.
            **conditions: arrays by the network's keyword, in place of `condition`.
        """
        x = np.asarray(jnp.asarray(x, float))
        check_finite(x, "the samples", "sample {}".format, missing=self.missing)
        conditions |= self.conditions.given(condition, len(x))
        arguments = jax.random.key(self.seed), jnp.asarray(x), conditions
        options = self.likelihood.to_accuracy(accuracy)
        with progress.working("log-likelihood"):
            program = self.program(likelihood.log_prob, options)
            return jax.block_until_ready(program(self.params, *arguments))

    def bits_per_dim(
        self, x: Any, condition: Any = None, accuracy: float | None = None, **conditions: Any
    ) -> BitsPerDim:
        """Bits per dimension of data x [N, ...], grey levels or floats; also of each sample.

        The other arguments are those of `log_likelihood`.

        Raises:
            ValueError: values that are no grey levels of the model's data.
            FloatingPointError: a likelihood is not finite.
        """
        conditions |= self.conditions.given(condition, len(x))
        about = self, (np.asarray(x), conditions)
        return likelihood.bits_per_dim(*about, accuracy=accuracy)

    def encode(self, x: Any, condition: Any = None, **conditions: Any) -> jax.Array:
        """The points of the prior, [N, *shape], that the probability flow takes samples x to."""
        self.check_has_score("encoding")
        conditions |= self.conditions.given(condition, len(x))
        with progress.working("encoding"):
            program = self.program(_encode)
            return jax.block_until_ready(program(self.weights, jnp.asarray(x, float), conditions))

    def decode(self, z: Any, condition: Any = None, **conditions: Any) -> jax.Array:
        """The samples, [N, *shape], that the probability flow takes points z of the prior to."""
        self.check_has_score("decoding")
        conditions |= self.conditions.given(condition, len(z))
        with progress.working("decoding"):
            program = self.program(_decode)
            return jax.block_until_ready(program(self.weights, jnp.asarray(z, float), conditions))

    def impute(self, x: Any, n_results: int = 1, **options: Any) -> np.ndarray:
        """Samples of the missing values of data x [N, *shape], given the observed ones.

        Args:
            x: data in their own units, with NaN for each missing value.
            n_results: samples for each.
            **options: further fields of experiments.pipeline.edit.Edit, such as n_iterations.

        Returns:
            [N, n_results, *shape] in the same units, whose observed values are those of x.
        """
        about = edits.create("impute", n_results=n_results, **options)
        return edits.impute(self, np.asarray(x), about)

    def edit(
        self,
        images: Any,
        task: str,
        mask: Any = None,
        seed: int | None = None,
        sampler: Sampler | str | None = None,
        label: int | Sequence[int] | None = None,
        prompt: str | Sequence[str] | None = None,
        guidance: float | None = None,
        condition: Any = None,
        crop: str = "center",
        **options: Any,
    ) -> dict[str, Any]:
        """An edit of images: columns of images by their titles.

        Args:
            images: samples [N, *shape] in model space, whose columns are samples too; or image
                files and folders, or images [H, W, C] of 0 to 255, of any size, whose columns are
                images of 0 to 255.
            task: a name in experiments.pipeline.edit.TASKS, such as "inpaint".
            mask: of "inpaint": a name in MASKS, an image file that is white where results are made,
                or an array [H, W] that is True where the images are known.
            seed: as of `sample`.
            sampler: as of `sample`.
            label: as of `sample`, for the images in turn.
            prompt: as of `sample`, for the images in turn.
            guidance: as of `sample`.
            condition: as of `sample`, for the images in turn.
            crop: "center" cuts images to the model's aspect ratio; "none" squeezes them.
            **options: further fields of experiments.pipeline.edit.Edit, such as strength.

        Raises:
            ValueError: an edit that does not go with the images, the mask or the model.
            FloatingPointError: a result is not finite.
        """
        model = self.set(seed, sampler, label, prompt, guidance, condition)
        named = isinstance(mask, str | Path)
        about = edits.create(task, **options, **({"mask": str(mask)} if named else {}))
        return edits.edit(model, images, about, None if named else mask, edits.Fit(crop))


def _encode(model: TrainedModel) -> Callable:
    """The function of weights, samples and conditions that gives points of the prior."""

    model.check_flow_from_noise("encoding")

    def encode(params, x, conditions):
        conditions = model.complete(conditions, model.key, x, 0)
        score_fn = model.conditional_score(params, conditions)
        x, _ = model.encoded(params, model.key, x)
        return editing.encode(model.sde, score_fn, x, **model.flow_tolerances())

    return encode


def _decode(model: TrainedModel) -> Callable:
    """The function of weights, points of the prior and conditions that gives samples."""
    model.check_flow_from_noise("decoding")
    flow = samplers.ProbabilityFlow(**model.flow_tolerances())

    def decode(params, z, conditions):
        score_fn = model.conditional_score(params, conditions)
        start = samplers.Start(z, model.sde.t_max)
        key = jax.random.key(0)  # of nothing: the flow is deterministic from its start on
        return model.decoded(params, flow(key, model.sde, score_fn, z.shape, start=start).x)

    return decode
