"""Mode study, config.study.name = "forward": the forward process, from data to noise.

    python -m experiments.main --config=configs/points.py:mixture --mode=study \\
        --config.study.name=forward
    python -m experiments.main --config=configs/digits.py --mode=study --config.study.name=forward

A row shows one SDE at even times from 0 to t_max. Images are those of the test set with the same
noise in all rows. Of points it shows densities: those of the mixture are exact, others are
histograms. Each panel has the scale of x_t, the square root of alpha^2 s^2 + sigma^2 for data of
standard deviation s, so the last column of every row is the same Gaussian if no signal is left.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.build import data
from experiments.build.components import specs
from experiments.commands.request import Request
from experiments.data.sources.points import MIXTURE
from experiments.runs import charts, files, pictures
from experiments.studies.pictures import families
from experiments.studies.statistics import save_table
from models.config import Config
from sde_lib import SDE, GaussianMixture
from sde_lib.checks import check_at_least

SECTION = "config.study.forward"
HALF_WIDTH = 3.0  # of a panel of points, in standard deviations of x_t
SIDE = 60  # cells of an exact density a side
BINS = 50  # of a histogram a side
MOST = 10_000  # samples of the test set that are read


class Result(NamedTuple):
    """The marginal of one SDE at one time.

    Attributes:
        sde: its name.
        t: the time.
        alpha: factor of the data.
        sigma: standard deviation of the noise.
        log_snr: log(alpha^2 / sigma^2).
        correlation: of a coordinate of x_t with the same one of x_0, for data of their std.
        kl: KL divergence of p_t to the prior in nats, for the mixture alone.
    """

    sde: str
    t: float
    alpha: float
    sigma: float
    log_snr: float
    correlation: float
    kl: float | None = None


def run(request: Request) -> None:
    """Prints the table of the marginals, and saves it with the picture.

    Raises:
        ValueError: an unknown SDE, an impossible number, or data that are no images or points in
            the plane.
    """
    config, options = request.config, request.config.study.forward
    check_at_least(2, **{f"{SECTION}.n_times": options.n_times})
    check_at_least(1, **{f"{SECTION}.n_images": options.n_images})
    sdes = families.sdes(config, f"{SECTION}.sdes", options.sdes)
    if not sdes:
        raise ValueError(f"{SECTION}.sdes is empty: give one or more of {families.NAMES}")
    test = samples(config)
    std = float(np.std(np.asarray(test, np.float64)))
    mixture = MIXTURE if config.data.dataset == "mixture" else None
    results = [
        marginal(name, sde, t, std, mixture)
        for name, sde in sdes.items()
        for t in times(sde, options.n_times)
    ]
    path = request.folder / f"forward_seed{config.seed}.jsonl"
    files.write_lines(path, (result._asdict() for result in results))
    save_table(path, results, missing="-")
    about = pictures.provenance(config=config.to_dict(), seed=config.seed)
    picture, n = path.with_suffix(".png"), options.n_times
    titles = [f"t = {k / (n - 1):.2g} T" for k in range(n)]
    if test.ndim == 2:
        about_x = np.asarray(test), std, mixture, n
        rows = {
            name: dict(zip(titles, densities(sde, *about_x), strict=True))
            for name, sde in sdes.items()
        }
        print(charts.save_maps(picture, rows, about))
        return
    grid = noised(sdes, test[: options.n_images], std, n, config.seed)
    shown = specs.scaling(config).to_uint8(np.concatenate(list(grid.values())))
    names = [name for name in grid for _ in range(len(shown) // n // len(grid))]
    print(pictures.save_grid(picture, shown, n, about, titles, names))


def samples(config: Config) -> Array:
    """The test set in model space. Raises ValueError for data that cannot be shown."""
    shape, scaling = specs.data_shape(config), specs.scaling(config)
    if len(shape) != 3 and shape != (2,):
        raise ValueError(
            f"config.data.dataset is {config.data.dataset!r}, whose samples have the shape {shape}:"
            " the study 'forward' shows images and points in the plane, take such data"
        )
    test = data.images(config).test[:MOST]
    return scaling.to_model(jax.random.key(config.seed), jnp.asarray(test), dequantize=False)


def times(sde: SDE, n: int) -> Float[np.ndarray, " n"]:
    """Even times from train_t_min to t_max."""
    return np.linspace(sde.train_t_min, sde.t_max, n)


def marginal(
    name: str, sde: SDE, t: float, std: float, mixture: GaussianMixture | None = None
) -> Result:
    """The numbers of x_t for data of this standard deviation."""
    alpha, sigma = (float(each(jnp.float32(t))) for each in (sde.alpha, sde.sigma))
    width = math.hypot(alpha * std, sigma)
    kl = None if mixture is None else divergence(mixture.marginal(sde, t), sde.prior_std)
    log_snr = float(sde.log_snr(jnp.float32(t)))
    return Result(name, float(t), alpha, sigma, log_snr, alpha * std / width, kl)


def divergence(mixture: GaussianMixture, std: float, order: int = 64) -> float:
    """KL(mixture || N(0, std^2 I)) in nats, by quadrature."""
    x, weights = mixture.quadrature(order)
    prior = GaussianMixture((1.0,), ((0.0,) * x.shape[1],), std)
    points = jnp.asarray(x, jnp.float32)
    gaps = np.asarray(mixture.log_prob(points) - prior.log_prob(points), np.float64)
    return float(weights @ gaps)


def densities(
    sde: SDE,
    x0: Float[np.ndarray, "n 2"],
    std: float,
    mixture: GaussianMixture | None,
    n_times: int,
) -> Iterator[Float[np.ndarray, "side side"]]:
    """The density of x_t at each time over [-HALF_WIDTH, HALF_WIDTH]^2 stds of x_t; rows are y."""
    ticks = HALF_WIDTH * (2 * (np.arange(SIDE) + 0.5) / SIDE - 1)
    mesh = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    noise = np.random.RandomState(0).randn(*x0.shape)
    for t in times(sde, n_times):
        alpha, sigma = (float(each(jnp.float32(t))) for each in (sde.alpha, sde.sigma))
        width = math.hypot(alpha * std, sigma)
        if mixture is not None:
            log_prob = mixture.marginal(sde, t).log_prob(jnp.asarray(width * mesh, jnp.float32))
            yield np.exp(np.asarray(log_prob)).reshape(SIDE, SIDE)
            continue
        x, y = ((alpha * x0 + sigma * noise) / width).T
        edges = np.linspace(-HALF_WIDTH, HALF_WIDTH, BINS + 1)
        yield np.histogram2d(y, x, bins=(edges, edges), density=True)[0]


def noised(
    sdes: dict[str, SDE], x0: Array, std: float, n_times: int, seed: int
) -> dict[str, Float[np.ndarray, "frames h w c"]]:
    """For each SDE the images one after the other, each at all times, in the scale of the data.

    x_t is divided by the ratio of its width to that of the data.
    """
    rows: dict[str, np.ndarray] = {}
    z = jax.random.normal(jax.random.key(seed), x0.shape)
    for name, sde in sdes.items():
        frames = []
        for t in map(jnp.float32, times(sde, n_times)):
            alpha, sigma = sde.alpha(t), sde.sigma(t)
            width = jnp.hypot(alpha * std, sigma) / std
            frames.append((alpha * x0 + sigma * z) / width)
        rows[name] = np.stack(frames, axis=1).reshape(-1, *x0.shape[1:])
    return rows
