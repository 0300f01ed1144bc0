"""Detection of generated images by statistics of a diffusion model.

Each statistic is a number of an image that tends to be smaller for images that the model made:

- "reconstruction": the error of the image that the probability flow takes to noise and back in few
  steps (samplers.editing.reconstruct; Wang et al. 2023, DIRE, arXiv 2303.09295).
- "noise_loss": the error of the predicted noise, averaged over noise levels, by a weighting if
  one is given.
- "likelihood": bits/dim by the probability flow.
- "classifier": the probability of a real image by logistic regression on the maps of the
  reconstruction's error, trained on other images of the same sets (cross-validation).

Samples and real images are grey levels first, as in a file: no rounding gives a sample away.

The area under the ROC curve is 1/2 where the two cannot be told apart, and less where samples have
the larger numbers: by the reconstruction it is 0.51 +- 0.03 for configs/digits.py:vp_score_sde, and
was 0.36 +- 0.02 for the variant edm after 600 steps.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.pipeline import likelihood
from experiments.pipeline.model import TrainedModel
from experiments.runs import parts
from samplers import editing
from samplers.noise_levels import levels_at
from sde_lib import ScoreFn
from sde_lib.batch import expand, fold_in, normal, sample_keys
from sde_lib.weighting import Weighting

Errors = Float[np.ndarray, " n"]
Maps = Float[np.ndarray, "n *shape"]
Values = tuple[Any, Any]
"""Images as the data set has them, and their conditions."""
STATISTICS = ("reconstruction", "noise_loss", "likelihood", "classifier")
N_FOLDS = 5
N_LEVELS = 16  # noise levels of "noise_loss"


class AUC(NamedTuple):
    """The probability that a real image has the larger error, and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3f} +- {self.error:.3f}"


def residuals(model: TrainedModel, values: Values, n_steps: int, title: str = "") -> Maps:
    """The change of each image by its reconstruction, in model space.

    Args:
        model: the trained model.
        values: grey levels [N, ...], or floats, and their conditions.
        n_steps: of Euler's method, there and back.
        title: shown with the progress.

    Raises:
        FloatingPointError: one is not finite.
    """
    return _over(model, values, title, _change, n_steps)


def reconstruction_errors(
    model: TrainedModel, values: Values, n_steps: int, title: str = ""
) -> Errors:
    """The RMS difference between each image and its reconstruction, in model space."""
    return _rms(residuals(model, values, n_steps, title))


def noise_losses(
    model: TrainedModel,
    values: Values,
    n_levels: int,
    title: str = "",
    weighting: Weighting | None = None,
) -> Errors:
    """The weighted mean square error of the predicted noise of each image, over n_levels levels.

    It is E[w ||eps - eps_theta||^2] over the number of dimensions. The noise levels are evenly
    spaced in log(sigma / alpha). The weights w(log-SNR) are scaled to a mean of 1 over them;
    without a weighting all are 1. The noise of image i is the same in every set.

    Raises:
        FloatingPointError: one is not finite.
    """
    return _over(model, values, title, _losses, n_levels, weighting)


def measured(
    model: TrainedModel,
    values: Values,
    names: Sequence[str],
    n_steps: int,
    title: str = "",
    weighting: Weighting | None = None,
) -> dict[str, np.ndarray]:
    """The statistics of these names of each image; for "classifier" its map of residuals."""
    found: dict[str, np.ndarray] = {}
    if {"reconstruction", "classifier"} & set(names):
        maps = residuals(model, values, n_steps, title)
        found |= {"reconstruction": _rms(maps), "classifier": maps}
    if "noise_loss" in names:
        found["noise_loss"] = noise_losses(model, values, N_LEVELS, f"{title}, noise", weighting)
    if "likelihood" in names:
        found["likelihood"] = likelihood.bits_per_dim(model, values).each
    return {name: found[name] for name in names}


def cross_validated(real: Maps, samples: Maps) -> tuple[Errors, Errors]:
    """The log odds of a real image, of both sets, by a classifier that has not seen the image.

    It is a logistic regression on the absolute values of the maps.
    """
    from sklearn.linear_model import LogisticRegression  # takes 1 s to import
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.abs(np.concatenate([real, samples])).reshape(len(real) + len(samples), -1)
    truth = np.repeat([1, 0], [len(real), len(samples)])
    n_folds = min(N_FOLDS, len(real), len(samples))
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    odds = np.asarray(cross_val_predict(classifier, x, truth, cv=folds, method="decision_function"))
    return odds[: len(real)], odds[len(real) :]


Measure = Callable[[ScoreFn, jax.Array, jax.Array], jax.Array]
"""A function (score_fn, x, index of the first sample) of images in model space."""


def _change(model: TrainedModel, n_steps: int) -> Measure:
    def change(score_fn: ScoreFn, x: jax.Array, first_index: jax.Array) -> jax.Array:
        return editing.reconstruct(model.sde, score_fn, x, n_steps) - x

    return change


def _losses(model: TrainedModel, n_levels: int, weighting: Weighting | None) -> Measure:
    sde = model.sde
    low, high = np.log(levels_at(sde, [sde.train_t_min, sde.t_max]))
    log_levels = jnp.linspace(low, high, n_levels)
    times = sde.inverse_noise_level(jnp.exp(log_levels))
    weights = weighting(-2 * log_levels) if weighting else jnp.ones(n_levels)
    weights /= weights.mean()

    def losses(score_fn: ScoreFn, x: jax.Array, first_index: jax.Array) -> jax.Array:
        keys = sample_keys(jax.random.key(0), len(x), first_index)

        def at(level: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            k, t = level[0], jnp.full(len(x), level[1])
            z = normal(fold_in(keys, k), x.shape)
            mean, std = sde.marginal(x, t)
            noise = -expand(std, x) * score_fn(mean + expand(std, x) * z, t)
            return level[2] * jnp.mean((noise - z) ** 2, axis=tuple(range(1, x.ndim)))

        return jnp.mean(jax.lax.map(at, (jnp.arange(n_levels), times, weights)), axis=0)

    return losses


def _batch(model: TrainedModel, make: Callable[..., Measure], *options: Any) -> Callable:
    measure = make(model, *options)

    def batch(params: Any, values: Any, first_index: jax.Array) -> dict[str, jax.Array]:
        x, conditions = values
        key = jax.random.key(0)
        x = model.scaling.to_model(key, x, dequantize=False)
        conditions = model.complete(conditions, key, x, first_index)
        return {"found": measure(model.score_of(params, conditions), x, first_index)}

    return batch


def _over(
    model: TrainedModel, values: Values, title: str, make: Callable[..., Measure], *options: Any
) -> np.ndarray:
    """The measure make(model, *options) of all images, in batches of one compiled program."""
    fn = partial(model.program(_batch, make, *options), model.params)
    size = model.likelihood.batch_size
    found = parts.over(model.mesh, values, size, fn, title=title)["found"]
    if not np.isfinite(found).all():
        raise FloatingPointError(
            "statistics of images are not finite: take more steps (config.detect.n_steps), or "
            "another checkpoint"
        )
    return found


def _rms(maps: Maps) -> Errors:
    return np.sqrt(np.mean(maps**2, axis=tuple(range(1, maps.ndim))))


def roc(real: Errors, samples: Errors) -> Float[np.ndarray, "points 2"]:
    """The ROC curve: shares of (real images, samples) with an error of at most each value."""
    up_to = np.unique(np.concatenate([real, samples]))
    shares = [np.searchsorted(np.sort(x), up_to, "right") / len(x) for x in (real, samples)]
    return np.vstack([np.zeros(2), np.transpose(shares)])


def auc(real: Errors, samples: Errors) -> AUC:
    """The area under the ROC curve; ties count half.

    Its standard error is that of DeLong et al. 1988: from the variances, over the images of either
    set, of the share of the other set that an image is on the right side of.
    """
    above, below = _share_below(samples, real), 1 - _share_below(real, samples)
    variance = sum(shares.var(ddof=1) / len(shares) for shares in (above, below))
    return AUC(float(above.mean()), float(np.sqrt(variance)))


def _share_below(values: Errors, limits: Errors) -> Errors:
    """The share of values below each limit, plus half of those equal to it."""
    ordered = np.sort(values)
    sides = [np.searchsorted(ordered, limits, side) for side in ("left", "right")]
    return np.mean(sides, axis=0) / len(values)
