"""Mode study, config.study.name = "schedules": beta, alpha^2 and log-SNR of all noise schedules.

    python -m experiments.main --config=configs/points.py:mixture --mode=study \\
        --config.study.name=schedules

The upper row shows the SDEs over t / T, the lower one the chains of betas that DDPM's family
trains, over i / N. beta is the rate at which the signal decays, -2 d log alpha / d(t / T), or
N beta_i. SDEs with alpha = 1 have none. The table says where each schedule spends its time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.commands.request import Request
from experiments.runs import charts, pictures
from experiments.studies.pictures import families
from experiments.studies.statistics import save_results
from sde_lib import SDE, chains
from sde_lib.checks import check_at_least

N_POINTS = 200  # of a curve
INFORMATIVE = 4.0  # |log-SNR| up to which noise hides a part of the data, and not all
Curve = Float[np.ndarray, " points"]


class Schedule(NamedTuple):
    """A schedule over u = t / T or i / N, in float64.

    Attributes:
        u: in (0, 1].
        beta: the rate of decay; 0 where alpha = 1.
        alpha2: the squared factor of the data.
        log_snr: log(alpha^2 / sigma^2).
    """

    u: Curve
    beta: Curve
    alpha2: Curve
    log_snr: Curve


class Result(NamedTuple):
    """The numbers of one schedule.

    Attributes:
        schedule: its name.
        first_log_snr: at the least time of training, or at the first level.
        last_log_snr: at T, or at the last level.
        last_alpha: the part of the signal that is left there.
        equal_at: u at which the log-SNR is 0: as much noise as signal.
        informative: share of u with |log-SNR| < INFORMATIVE.
    """

    schedule: str
    first_log_snr: float
    last_log_snr: float
    last_alpha: float
    equal_at: float
    informative: float


def run(request: Request) -> None:
    """Prints the table of all schedules, and saves it with the picture.

    Raises:
        ValueError: an impossible number of levels, or numbers of the config's SDE.
    """
    config = request.config
    n_levels = config.study.schedules.n_levels
    check_at_least(2, **{"config.study.schedules.n_levels": n_levels})
    continuous = {
        name: of_sde(sde) for name, sde in families.sdes(config, "", families.NAMES).items()
    }
    betas = {name: make for name, make in chains.SCHEDULES.items() if name != "explicit"}
    discrete = {f"{name} betas": of_betas(make(n_levels)) for name, make in betas.items()}
    path = request.folder / f"schedules_seed{config.seed}.jsonl"
    save_results(path, [result(name, each) for name, each in (continuous | discrete).items()])
    about = pictures.provenance(config=config.to_dict())
    panels = [*panels_of(continuous, "t / T"), *panels_of(discrete, f"i / {n_levels}")]
    print(charts.save_lines(path.with_suffix(".png"), panels, 3, about, log=False))


def of_sde(sde: SDE) -> Schedule:
    """The schedule of an SDE between train_t_min and t_max."""
    t = np.linspace(sde.train_t_min, sde.t_max, N_POINTS + 1)
    times = jnp.asarray(t, jnp.float32)
    rate = np.asarray(jax.vmap(sde.drift_coefficient)(times), np.float64)
    alpha = np.asarray(sde.alpha(times), np.float64)
    log_snr = np.asarray(sde.log_snr(times), np.float64)
    return Schedule(t / sde.t_max, -2 * sde.t_max * rate, alpha**2, log_snr)


def of_betas(betas: Sequence[float] | np.ndarray) -> Schedule:
    """The schedule of a chain x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z, i = 1, ..., N."""
    betas = np.asarray(betas, np.float64)
    log_alpha2 = np.cumsum(np.log1p(-betas))
    log_snr = log_alpha2 - np.log(-np.expm1(log_alpha2))
    n = len(betas)
    return Schedule(np.arange(1, n + 1) / n, n * betas, np.exp(log_alpha2), log_snr)


def result(name: str, schedule: Schedule) -> Result:
    """The numbers of a schedule; places between its points are interpolated."""
    u, falling = schedule.u, -schedule.log_snr
    equal, before, after = np.interp((0.0, -INFORMATIVE, INFORMATIVE), falling, u)
    ends = -falling[0], -falling[-1], np.sqrt(schedule.alpha2[-1])
    return Result(name, *map(float, (*ends, equal, after - before)))


def panels_of(schedules: dict[str, Schedule], label: str) -> list[charts.Lines]:
    """Panels of log10 beta, alpha^2 and the log-SNR over u."""
    panels = []
    for title, values in {
        "log10 beta": lambda each: np.log10(each.beta),
        "alpha^2": lambda each: each.alpha2,
        "log-SNR": lambda each: each.log_snr,
    }.items():
        curves = {}
        for name, each in schedules.items():
            if title != "log10 beta" or (each.beta > 0).all():
                every = slice(None, None, max(1, len(each.u) // N_POINTS))
                curves[name] = list(zip(each.u[every], values(each)[every], strict=True))
        panels.append(charts.Lines(title, label, curves, {}))
    return panels
