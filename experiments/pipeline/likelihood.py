"""Log-likelihoods of data under a trained model, in bits per dimension."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import sde_lib
from experiments.data.lazy_arrays import check_finite
from experiments.pipeline.model import LikelihoodOptions, TrainedModel, without_source
from experiments.runs import devices, parts
from experiments.runs.long.segments import InSegments
from sde_lib import missing


class BitsPerDim(NamedTuple):
    """Bits per dimension of a set of samples.

    mean and error: their mean and its standard error. nfe: the solver's mean number of evaluations.
    given: the condition that they hold for, beside classes and texts. each: of every sample, [N].
    nats: log densities (of grey levels, log probabilities) in nats, of the data's own units, [N].
    by: the parts of the error by their causes, as far as n_probes and n_repeats tell (split_error).
    """

    mean: float
    error: float
    nfe: int
    given: str
    each: Float[np.ndarray, " n"]
    nats: Float[np.ndarray, " n"] = np.zeros(0)
    by: Mapping[str, float] = MappingProxyType({})

    def __str__(self) -> str:
        given = self.given and f", given {self.given}"
        return f"{self.mean:.3f} +- {self.error:.3f} (nfe {self.nfe}{given})"


def bits_per_dim(
    pipeline: TrainedModel,
    values: tuple[Any, Any],
    part: parts.Part = parts.always,
    accuracy: float | None = None,
) -> BitsPerDim:
    """Bits per dimension of data by the probability-flow ODE.

    With missing values it is the density of each sample's observed part, by its observed values.
    The network computes in float32, whatever its dtype. In each pass a sample is dequantised anew,
    by a key of its own; the error is that of the mean over samples. Uniform noise dequantises. A
    model of grey levels (pipeline.grey_levels), whose network has never seen uniform noise, is
    dequantised by its own least noise (sde_lib.encode_grey_levels). With an encoder it is the
    variational bound, for one draw of each latent. The density of floats is of the
    data's own units. A super-resolution model is conditioned on the sample's own smaller image.
    Without noise, that leaves x a subspace, where no density is bounded: such bits only tell how
    sharply the model knows it.

    Args:
        pipeline: the trained model.
        values: samples [N, ...] as the data set has them, and their conditions.
        part: keeps finished parts.
        accuracy: the solver's error in bits/dim, in place of pipeline.likelihood's precision.

    Raises:
        ValueError: values that are no grey levels of the model's data, or an accuracy out of reach.
        FloatingPointError: a likelihood is not finite.
    """
    _check_values(pipeline, values[0])
    program = batch_program(pipeline, values[0].shape[1:], accuracy)
    batch = partial(program, pipeline.params)
    each = each_pass(pipeline, values, batch, part, "likelihood")
    result = {name: array.mean(axis=0) for name, array in each.items()}
    bits = result["bits"]
    if not np.isfinite(bits).all():
        raise FloatingPointError(
            f"{np.sum(~np.isfinite(bits))} of {len(bits)} likelihoods are not finite: the solver "
            "failed; is the model trained? If it is, give a larger config.eval.accuracy"
        )
    error = bits.std(ddof=1) / np.sqrt(len(bits)) if len(bits) > 1 else float("nan")
    given = str(pipeline.super_resolution or "")
    nats = -bits * math.log(2) * result["dims"]
    drawn = pipeline.scaling.levels is not None
    by = split_error(each["bits"], each["probe_error"], drawn, pipeline.likelihood.probe == "exact")
    return BitsPerDim(bits.mean(), error, round(result["nfe"].mean()), given, bits, nats, by)


def split_error(
    bits: Float[np.ndarray, "passes n"],
    probe_error: Float[np.ndarray, "passes n"],
    dequantized: bool,
    exact: bool = False,
) -> dict[str, float]:
    """The parts of the standard error of the mean bits/dim, by their causes; {} if unknown.

    The squares of the parts add up to the square of the error. Two or more probes tell their part
    by their spread, and two or more passes tell that of all that they draw anew. {} also if
    there is one cause alone.

    Args:
        bits: of each sample in each pass.
        probe_error: standard error of each of them from the probes; NaN for one probe.
        dequantized: each pass draws other noise for the data too.
        exact: the trace is exact, without probes.
    """
    n_passes, n = bits.shape
    if n < 2:
        return {}
    total = bits.mean(axis=0).var(ddof=1) / n
    probes = np.mean(probe_error**2) / (n_passes * n)
    drawn = np.mean(bits.var(axis=0, ddof=1)) / (n_passes * n) if n_passes > 1 else math.nan
    if not dequantized:
        squares = {"data": total - drawn, "probes": drawn}
        if n_passes == 1:
            squares = {"data": total - probes, "probes": probes}
    elif n_passes == 1:
        squares = {"data and dequantization": total - probes, "probes": probes}
    elif math.isnan(probes):
        squares = {"data": total - drawn, "dequantization and probes": drawn}
    else:
        rest = drawn - probes
        squares = {"data": total - drawn, "dequantization": rest, "probes": probes}
    if exact:
        squares.pop("probes", None)
    if len(squares) < 2 or any(map(math.isnan, squares.values())):
        return {}
    return {cause: math.sqrt(max(square, 0.0)) for cause, square in squares.items()}


def batch_program(
    pipeline: TrainedModel, shape: tuple[int, ...], accuracy: float | None = None
) -> InSegments:
    """The compiled function (weights, key, (x, conditions), first index) of a batch's bits."""
    return pipeline.program(_batch, pipeline.likelihood.to_accuracy(accuracy), shape)


def _batch(pipeline: TrainedModel, options: LikelihoodOptions, shape: tuple[int, ...]) -> Callable:
    """The function of weights, key, data of this shape and first index that gives their bits."""
    scaling = pipeline.scaling

    pipeline.check_flow_from_noise("a likelihood")

    def batch(params, key, values, first_index):
        x, conditions = values
        log_ratio, levels, mask = 0.0, scaling.levels, None
        if pipeline.grey_levels:
            x0, grey = grey_values(pipeline, x)
            conditions = pipeline.conditions.complete(conditions, key, x0, first_index)
            about = key, pipeline.sde, x0, grey, first_index
            x, log_q, log_p = sde_lib.encode_grey_levels(*about)
            log_ratio, levels = log_p - log_q, None
        else:
            whole = pipeline.codec is not None and pipeline.codec.levels is not None
            x = scaling.to_model_each(key, x, first_index, dequantize=not whole)
            levels = None if whole else levels
            x, log_ratio = pipeline.encoded(params, key, x, first_index)
        x, mask, conditions = split_missing(pipeline, x, conditions)
        score_fn = exact_score_fn(pipeline, params, key, x, conditions, first_index)
        result = options.log_likelihood(key, pipeline.sde, score_fn, x, first_index, mask)
        log_prob = result.log_prob + log_ratio - scaling.log_volume(shape, mask)
        dims = jnp.full(len(x), math.prod(shape)) if mask is None else missing.count_observed(mask)
        bits = sde_lib.bits_per_dim(log_prob, shape, scaling.range, levels, dims)
        probe_error = result.probe_error / (dims * math.log(2))
        nfe, probe_error = (jnp.broadcast_to(v, bits.shape) for v in (result.nfe, probe_error))
        return {"bits": bits, "nfe": nfe, "dims": dims, "probe_error": probe_error}

    return batch


def log_prob(pipeline: TrainedModel, options: LikelihoodOptions) -> Callable:
    """The function of weights, key, samples in model space and conditions that scores them."""

    pipeline.check_flow_from_noise("a likelihood")

    def log_prob(params, key, x, conditions):
        x, mask, conditions = split_missing(pipeline, x, conditions)
        x, log_ratio = pipeline.encoded(params, key, x)
        score_fn = exact_score_fn(pipeline, params, key, x, conditions, 0)
        found = options.log_likelihood(key, pipeline.sde, score_fn, x, mask=mask)
        return found._replace(log_prob=found.log_prob + log_ratio)

    return log_prob


def split_missing(
    pipeline: TrainedModel, x: jax.Array, conditions: dict[str, Any]
) -> tuple[jax.Array, jax.Array | None, dict[str, Any]]:
    """Samples in model space, their mask, and the conditions with it, if values may be missing."""
    if not pipeline.missing:
        return x, None, conditions
    x, mask = missing.split_missing(x)
    return x, mask, conditions | {"observed": mask}


def passes(
    pipeline: TrainedModel,
    values: Any,
    fn: Callable[[jax.Array, Any, int], dict[str, jax.Array]],
    part: parts.Part = parts.always,
    title: str = "",
) -> parts.Arrays:
    """The means of `each_pass` over the passes, [N, ...] by name."""
    each = each_pass(pipeline, values, fn, part, title)
    return {name: array.mean(axis=0) for name, array in each.items()}


def each_pass(
    pipeline: TrainedModel,
    values: Any,
    fn: Callable[[jax.Array, Any, int], dict[str, jax.Array]],
    part: parts.Part = parts.always,
    title: str = "",
) -> parts.Arrays:
    """fn(key, batch, first index) in each of options.n_repeats passes, [passes, N, ...] by name."""
    results, options = [], pipeline.likelihood
    for repeat in range(options.n_repeats):
        key = jax.random.fold_in(jax.random.key(pipeline.seed), repeat)
        about = pipeline.mesh, values, options.batch_size, partial(fn, key), part
        results.append(parts.over(*about, f"pass_{repeat}", title))
    return {name: np.asarray([r[name] for r in results], np.float64) for name in results[0]}


def exact_score_fn(
    pipeline: TrainedModel, params: Any, key: jax.Array, x: Any, conditions: Any, first_index: Any
) -> sde_lib.ScoreFn:
    """Inside jit: the model's score in float32, with the conditions of the samples x.

    Raises:
        ValueError: a model without a score.
    """
    pipeline.check_has_score("a likelihood (config.eval.enable_bpd)")
    conditions = pipeline.complete(conditions, key, x, first_index)
    params = devices.gather(pipeline.mesh, params)
    score_fn = pipeline.model.in_float32().score_fn(params, **without_source(conditions))
    return devices.spread(pipeline.mesh, score_fn)


def grey_values(pipeline: TrainedModel, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Grey levels x in model space, without noise, and all values that a grey level has there."""
    scaling, key = pipeline.scaling, jax.random.key(0)
    assert scaling.levels
    grey = scaling.to_model(key, jnp.arange(scaling.levels), dequantize=False)
    return scaling.to_model(key, x, dequantize=False), grey


def _check_values(pipeline: TrainedModel, x: Any) -> None:
    """Raises ValueError for arrays that are no data of the model; other sequences are the set's."""
    if not isinstance(x, np.ndarray):
        return
    if not np.issubdtype(x.dtype, np.integer):
        check_finite(x, "the data", "sample {}".format, missing=pipeline.missing)
    levels = pipeline.scaling.levels
    if levels is None:
        return
    whole = x == np.floor(x) if pipeline.missing else np.issubdtype(x.dtype, np.integer)
    if np.nanmin(x) < 0 or np.nanmax(x) >= levels or not np.all(whole | np.isnan(x)):
        raise ValueError(
            f"the data are grey levels 0 to {levels - 1}, and these values are {x.dtype} from "
            f"{x.min():g} to {x.max():g}: make grey levels of samples by Pipeline.to_data"
        )
