"""Mode sample: draws samples, and the pictures that show them."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import samplers
import sde_lib
from experiments import build
from experiments.data import captions, data, latent
from experiments.evaluation import bound
from experiments.pipeline import cascade, guides, scores
from experiments.pipeline.conditions import Conditions
from experiments.runs import pictures, sharding
from experiments.runs import workdir as workdirs
from models.config import Config

N_FRAMES = 10
N_PATHS = 8
N_POINT_PATHS = 2000
DENSITY_SIDE = 96
STAGE = 1 << 31  # folded in with an image's size: no sample has such an index


def make_draw(
    config: Config,
    model: nn.Module,
    params: Any,
    size: int,
    n_frames: int = 0,
    workdir: Path | None = None,
) -> Callable[[int], samplers.Samples]:
    """draw(first_index): samples from that index on, compiled once, split over all devices.

    They are `size`, and as many more as it takes for the devices to divide them. Sample i is the
    same in any batch; scores.sampling_score_fn and guides say what it is drawn by. A
    super-resolution model makes it of sample i of config.sampling.low_res. The run's folder keeps
    what the sampler has to know of the model first (bound.analytic).
    """
    sde, sampler = build.make_sde(config), bound.make_sampler(config, model, params, workdir)
    mesh = sharding.make_mesh(config)
    size = sharding.round_up(mesh, size)
    guide, guide_params = guides.load(config, sde, params)
    texts = captions.of_samples(config) if config.model.text else None
    shape = sde.state_shape((size, *build.image_shape(config)))
    make_given = _make_given(config, size)

    @jax.jit
    def batch(params, guide_params, key, given, first_index):
        indices = first_index + jnp.arange(size)
        if "low_res" in given:
            noise = config.sampling.low_res_noise
            given |= cascade.told_smaller(config, key, given["low_res"], first_index, noise)
        score_fn = scores.sampling_score_fn(config, sde, model, mesh, params, indices, given)
        guided = guide(score_fn, sharding.gather(mesh, guide_params), indices)
        guided = jax.tree.map(partial(sharding.spread, mesh), guided)
        states = sampler(key, sde, guided, shape, first_index, n_frames)
        return states._replace(x=sde.data_of(states.x), path=sde.data_of(states.path))

    def draw_batch(first_index: int) -> samplers.Samples:
        given = make_given(first_index)
        if texts is not None:
            given |= {"text": texts[(first_index + np.arange(size)) % len(texts)]}
        return batch(params, guide_params, _key(config), given, first_index)

    return draw_batch


def settings(config: Config) -> dict[str, Any]:
    """What decides on samples beside the model and the seed, but for their number."""
    chain = config.eval.bound_steps if config.sampling.variance == "analytic" else None
    about = {"n_samples": None, "low_res": cascade.identity(config), "bound_steps": chain}
    return config.sampling.to_dict() | about | {"texts": captions.identity(config)}


def _make_given(config: Config, size: int) -> Callable[[int], Conditions]:
    """given(first_index): of a super-resolution model, the images that it makes larger.

    They are "low_res" [size, H, W, C] in model space: samples of the run in config.sampling.low_res
    or, without one, test images in turn made smaller, with their classes if the model takes some.
    The samples are not rounded to grey levels, between which the means of images lie too.
    """
    if not config.model.low_res_size:
        return lambda _: {}
    low, high = data.data_range(config)
    if config.sampling.low_res:
        base = Path(config.sampling.low_res)
        draw_base = make_draw(*cascade.load_base(config), size, workdir=base)
        return lambda first_index: {"low_res": jnp.clip(draw_base(first_index).x, low, high)}
    dataset, mesh = data.load(config), sharding.make_mesh(config)
    size = sharding.round_up(mesh, size)
    told = {"class_labels": dataset.test_labels} if config.model.class_conditional else {}

    @jax.jit
    def of_test(x, told, first_index):
        about = config, dataset.levels, _key(config), x, first_index
        x = data.to_model_space_each(*about, config.data.uniform_dequantization)
        return told | {"low_res": cascade.smaller(x, config.model.low_res_size)}

    def in_turn(first_index: int) -> Conditions:
        indices = (first_index + np.arange(size)) % len(dataset.test)
        place = partial(sharding.put, sharding.of_batch(mesh), indices=indices)
        return of_test(*jax.tree.map(place, (dataset.test, told)), first_index)

    return in_turn


def draw(
    config: Config, model: nn.Module, params: Any, n_samples: int, workdir: Path | None = None
) -> tuple[np.ndarray, int]:
    """n_samples samples in model space, and the network evaluations of each.

    They come in batches of config.sampling.batch_size.

    Raises:
        FloatingPointError: a sample is not finite.
    """
    size = min(config.sampling.batch_size, n_samples)
    batch = make_draw(config, model, params, size, workdir=workdir)
    results = [batch(first) for first in range(0, n_samples, size)]
    x = np.concatenate([sharding.fetch(result.x)[:size] for result in results])[:n_samples]
    check_finite(x)
    return x, max(int(result.nfe) for result in results)


def check_finite(x: np.ndarray) -> None:
    """Raises FloatingPointError for samples that are not finite."""
    if not np.isfinite(x).all():
        raise FloatingPointError(
            "samples are not finite: take more steps (config.sampling.n_steps) or another sampler"
        )


def draw_paths(
    config: Config, model: nn.Module, params: Any, n_samples: int, workdir: Path | None = None
) -> np.ndarray:
    """The first samples on their way: [N_FRAMES + 1 at most, n_samples, ...], the prior first."""
    n_steps = getattr(build.make_sampler(config), "n_moves", config.sampling.n_steps - 1)
    n_frames = min(N_FRAMES, n_steps)
    path = make_draw(config, model, params, n_samples, n_frames, workdir)(0).path
    frames, sde = sharding.fetch(path)[:, :n_samples], build.make_sde(config)
    prior = sde.data_of(sde.prior_sample(_key(config), sde.state_shape(frames.shape[1:])))
    return np.concatenate([prior[None], frames])


def save_samples(config: Config, model: nn.Module, params: Any, step: int, workdir: Path) -> Path:
    """Draws samples, and saves their picture: a grid of images, or points beside the data."""
    x, nfe = draw(config, model, params, config.sampling.n_samples, workdir)
    about = _about(config, step, nfe=nfe)
    path = workdir / "samples" / f"samples_{step}.png"
    if x.ndim > 2:
        images = data.to_uint8(config, latent.make_decode(config, workdir)(x))
        return pictures.save_grid(path, images, math.ceil(math.sqrt(len(x))), about)
    points = data.load(config).train[: len(x)]
    half_width = 1.1 * float(np.abs(points).max())
    density = _density(config, model, params, half_width)
    return pictures.save_points(path, points, x, density, half_width, about)


def save_pictures(
    config: Config, model: nn.Module, params: Any, step: int, workdir: Path
) -> list[Path]:
    """The picture of samples, and that of a few samples' way from noise to data."""
    samples_path = save_samples(config, model, params, step, workdir)
    path = workdir / "samples" / f"path_{step}.png"
    about = _about(config, step)
    if len(build.image_shape(config)) > 1:
        frames = draw_paths(config, model, params, N_PATHS, workdir)
        frames = _stretch(config, frames).swapaxes(0, 1)
        if config.model.low_res_size:
            low_res = sharding.fetch(_make_given(config, N_PATHS)(0)["low_res"])[:N_PATHS]
            low_res = cascade.larger(low_res, config.data.image_size)
            frames = np.concatenate([low_res[:, None], frames], axis=1)
        images = data.to_uint8(config, latent.make_decode(config, workdir)(frames))
        pictures.save_grid(path, images.reshape(-1, *images.shape[2:]), frames.shape[1], about)
    else:
        frames = draw_paths(config, model, params, N_POINT_PATHS, workdir)
        pictures.save_point_path(path, frames[::2], about)
    return [samples_path, path]


def save_loss_curve(config: Config, step: int, workdir: Path) -> Path:
    """The picture of metrics.jsonl."""
    metrics = workdirs.read_metrics(workdir)
    return pictures.save_loss_curve(workdir / "samples" / "loss.png", metrics, _about(config, step))


def _density(config, model: nn.Module, params: Any, half_width: float) -> np.ndarray:
    """The model's density on a square mesh of points."""
    sde, mesh = build.make_sde(config), sharding.make_mesh(config)
    ticks = jnp.linspace(-half_width, half_width, DENSITY_SIDE)
    points = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)

    @jax.jit
    def log_prob(params, key):
        score_fn = scores.score_fn(config, sde, model, mesh, params)
        return sde_lib.log_likelihood(
            key, sde, score_fn, points, config.eval.rtol, config.eval.atol, "exact"
        ).log_prob

    density = np.exp(sharding.fetch(log_prob(params, _key(config))))
    return density.reshape(DENSITY_SIDE, DENSITY_SIDE)


def _stretch(config, frames: np.ndarray) -> np.ndarray:
    """Each frame's values moved to the data's range, for exploding noise to be seen at all.

    Of latents, to their standard deviation.
    """
    if config.data.autoencoder:
        axes = tuple(range(1, frames.ndim))
        return frames / np.maximum(1.0, frames.std(axes, keepdims=True))
    low, high = data.data_range(config)
    axes = tuple(range(1, frames.ndim))
    least, most = np.percentile(frames, [0.5, 99.5], axes, keepdims=True)  # not a lone outlier's
    least, most = np.minimum(least, low), np.maximum(most, high)
    return low + (high - low) * (frames - least) / (most - least)


def _key(config) -> jax.Array:
    """Of samples: noise of a cascade's stages, made by sizes, is independent at the same seed."""
    key, side = jax.random.key(config.seed), config.data.image_size
    return jax.random.fold_in(key, STAGE + side) if config.model.low_res_size else key


def _about(config, step: int, **details) -> dict[str, str]:
    return pictures.provenance(config=config.to_dict(), seed=config.seed, step=step, **details)
