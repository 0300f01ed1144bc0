"""Mode edit: what a trained model makes of images of the test set. config.edit says what."""

from collections import OrderedDict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import samplers
from experiments import build
from experiments.data import data, latent
from experiments.pipeline import guides, scores
from experiments.runs import pictures, sharding
from experiments.training import state
from models.config import Config
from samplers import editing, measurement
from sde_lib.checks import check_at_least, check_name


def run(config: Config, workdir: Path) -> None:
    """Edits the first config.edit.n_images test images; draws them with the results beside them.

    With config.data.autoencoder it is their latents that are edited, and all is shown decoded.

    Raises:
        ValueError: an unknown task or mask, an impossible number, or data that cannot be edited.
        FloatingPointError: a result is not finite.
    """
    check(config)
    task, sde, mesh = config.edit.task, build.make_sde(config), sharding.make_mesh(config)
    model, params, step = state.load(config, workdir)
    dataset, key = data.load(config), jax.random.key(config.seed)
    x = dataset.test[: config.edit.n_images]
    x = data.to_model_space(config, dataset.levels, key, jnp.asarray(x), dequantize=False)

    @jax.jit
    def edit(params, x, first_index):
        score_fn = scores.score_fn(config, sde, model, mesh, params)
        columns = TASKS[task](config, key, sde, score_fn, x, first_index)
        return OrderedDict(columns)  # jit would sort a dict

    pairs, n_results = task == "interpolate", config.edit.n_results
    size = max(1, config.sampling.batch_size // n_results)  # rows of the picture at a time
    rows = [
        sharding.fetch(edit(params, x[k : k + size + pairs], k * n_results))
        for k in range(0, len(x) - pairs, size)
    ]
    columns = {title: np.concatenate([row[title] for row in rows]) for title in rows[0]}
    images = np.stack(list(columns.values()), axis=1)
    if not np.isfinite(images).all():
        raise FloatingPointError("results are not finite: take more steps, or another sampler")
    if task == "reconstruct":
        what = "of latents " if config.data.autoencoder else ""
        print(f"largest error {what}{np.abs(images[:, 1] - images[:, 0]).max():.2e}")
    about = pictures.provenance(config=config.to_dict(), seed=config.seed, step=step)
    path = workdir / "samples" / f"edit_{task}_{step}.png"
    images = data.to_uint8(config, latent.make_decode(config, workdir)(images))
    images = images.reshape(-1, *images.shape[2:])
    print(pictures.save_grid(path, images, len(columns), about, list(columns)))


def check(config: Config) -> None:
    """Raises ValueError for what cannot be edited, before anything is loaded or compiled."""
    edit, dataset = config.edit, config.data.dataset
    check_name("config.edit.task", edit.task, TASKS)
    check_name("config.edit.mask", edit.mask, MASKS)
    least = {"n_images": 2 if edit.task == "interpolate" else 1, "n_results": 1, "n_iterations": 1}
    for name, count in least.items():
        check_at_least(count, **{f"config.edit.{name}": edit[name]})
    if not 0 <= edit.strength <= 1:
        raise ValueError(f"config.edit.strength is {edit.strength}: it must lie in [0, 1]")
    guides.refuse(config, "edit")
    if not build.make_sde(config).is_scalar:
        raise ValueError(
            f"mode edit does not know config.training.sde = {config.training.sde!r}, whose states "
            "are more than images: take a model of another SDE"
        )
    for name in ("class_conditional", "text"):
        if config.model[name]:
            raise ValueError(f"mode edit needs a model that is told nothing, not model.{name}")
    if config.sampling.variance in ("learned", "analytic"):
        raise ValueError(
            f"mode edit does not know config.sampling.variance = {config.sampling.variance!r}: take"
            " 'posterior', or another method"
        )
    if len(build.image_shape(config)) == 1:
        raise ValueError(f"{dataset!r} are points: mode edit needs images")
    if edit.task == "colorize" and config.data.autoencoder:
        raise ValueError("config.edit.task = 'colorize' needs grey images, which latents have not")
    if edit.task == "colorize" and config.data.num_channels == 1:
        raise ValueError(f"{dataset!r} has no colours: config.edit.task = 'colorize' needs them")


# A task: (config, key, sde, score_fn, x, index of the first result) -> the picture's columns by
# their titles, each like x.


def _inpaint(config, key, sde, score_fn, x, first_index):
    mask = MASKS[config.edit.mask](x.shape[1])
    operator = measurement.inpainting(mask)
    return _measure(config, key, sde, score_fn, x, first_index, operator)


def _colorize(config, key, sde, score_fn, x, first_index):
    return _measure(config, key, sde, score_fn, x, first_index, measurement.grey)


def _measure(config, key, sde, score_fn, x, first_index, operator):
    many = _repeat(config, x)
    score_fn = measurement.condition(
        sde, score_fn, operator, operator(many), n_iterations=config.edit.n_iterations
    )
    results = build.make_sampler(config)(key, sde, score_fn, many.shape, first_index).x
    given = jnp.broadcast_to(operator(x), x.shape)
    return {"original": x, "given": given} | _results(config, x, results)


def _variations(config, key, sde, score_fn, x, first_index):
    sampler, many = build.make_sampler(config), _repeat(config, x)
    strength = config.edit.strength
    results = editing.vary(sampler, key, sde, score_fn, many, strength, first_index)
    return {"original": x} | _results(config, x, results)


def _reconstruct(config, key, sde, score_fn, x, first_index):
    latent = _encode(config, sde, score_fn, x)
    return {"original": x, "decoded": _decode(config, key, sde, score_fn, latent)}


def _interpolate(config, key, sde, score_fn, x, first_index):
    """Between each image and the next."""
    n_frames, latent = config.edit.n_results, _encode(config, sde, score_fn, x)
    weights = np.arange(1, n_frames + 1) / (n_frames + 1)
    frames = jnp.stack([editing.slerp(latent[:-1], latent[1:], w) for w in weights], axis=1)
    frames = _decode(config, key, sde, score_fn, frames.reshape(-1, *x.shape[1:]))
    frames = frames.reshape(-1, n_frames, *x.shape[1:])
    between = {f"{w:.2f}": frames[:, k] for k, w in enumerate(weights)}
    return {"from": x[:-1]} | between | {"to": x[1:]}


def _encode(config, sde, score_fn, x):
    return editing.encode(sde, score_fn, x, **_tolerances(config))


def _decode(config, key, sde, score_fn, latent):
    decoder = samplers.ProbabilityFlow(**_tolerances(config))
    start = samplers.Start(latent, sde.t_max)
    return decoder(key, sde, score_fn, latent.shape, start=start).x


def _tolerances(config):
    given = {name: config.sampling[name] for name in ("rtol", "atol")}
    return {name: value for name, value in given.items() if value is not None}


def _repeat(config, x):
    return jnp.repeat(x, config.edit.n_results, axis=0)


def _results(config, x, results):
    """Columns of the results for _repeat(config, x)."""
    results = results.reshape(len(x), -1, *x.shape[1:])
    return {f"result {k + 1}": results[:, k] for k in range(config.edit.n_results)}


def _left(side: int) -> np.ndarray:
    return np.tile(np.arange(side) < side // 2, (side, 1))


def _around_centre(side: int) -> np.ndarray:
    within = np.abs(np.arange(side) - (side - 1) / 2) < side / 4
    return ~np.outer(within, within)


MASKS = {"left": _left, "centre": _around_centre}
TASKS = {
    "inpaint": _inpaint,
    "colorize": _colorize,
    "variations": _variations,
    "reconstruct": _reconstruct,
    "interpolate": _interpolate,
}
