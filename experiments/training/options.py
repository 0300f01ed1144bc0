"""The options of training, which check themselves, and the average of the weights."""

import dataclasses
import math
import sys
import threading

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.runs.metrics import check_sinks
from experiments.training.averages.power import PowerAverage
from experiments.training.optimizer import Adam
from sde_lib.checks import check_at_least, check_in, check_types

PERIODS = ("log_freq", "eval_freq", "snapshot_freq", "snapshot_freq_for_preemption")
OPTIONAL = ("quality_freq", "ema_freq")  # periods that may be 0
N_SNAPSHOTS = 32  # of the averages: lengths from 0.03 to 0.2 then miss their profiles by 1%


@dataclasses.dataclass(frozen=True)
class Average:
    """The exponential moving average of the weights.

    Attributes:
        rate: the share of the average that each step keeps. It starts short, as
            min(rate, (1 + step) / (10 + step)), so that the initial weights are forgotten.
        halflife: in images, in place of rate if positive (Karras et al. 2022, Appendix F.2).
        rampup: the most that halflife may be, as a share of the images seen so far; 0: no limit.
    """

    rate: float = 0.9999
    halflife: float = 0.0
    rampup: float = 0.05

    def __post_init__(self):
        check_types(self, "config.model.ema_")
        check_in("[0, 1)", **{"config.model.ema_rate": self.rate})
        for name in ("halflife", "rampup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"config.model.ema_{name} is {getattr(self, name)}: it must be 0 or more"
                )

    @property
    def count(self) -> int:
        """The number of averages: one."""
        return 1

    def new_weights(self, step: jax.Array, batch_size: int) -> tuple[jax.Array, ...]:
        """The share of the new weights in the average after a step, counted from 0."""
        if not self.halflife:
            return (1 - jnp.minimum(self.rate, (1 + step) / (10 + step)),)
        halflife = jnp.asarray(self.halflife)
        if self.rampup:
            halflife = jnp.minimum(halflife, step * (batch_size * self.rampup))
        return (1 - 0.5 ** (batch_size / halflife),)


@dataclasses.dataclass(frozen=True)
class Training:
    """Sizes, periods and limits of a training run, as config.training describes them.

    Raises:
        ValueError: a number that no run can have, or periods that do not fall between programs.
    """

    n_iters: int
    batch_size: int
    n_microbatches: int = 1
    steps_per_jit: int = 1
    log_freq: int = 50
    eval_freq: int = 5_000
    quality_freq: int = 0
    ema_freq: int = 0
    snapshot_freq: int = 50_000
    snapshot_freq_for_preemption: int = 10_000
    max_skipped: int = 10
    stall_seconds: float = 300.0
    random_flip: bool = False
    nan_to_num: bool = False
    resident_bytes: int = 2**30
    max_unreadable: float = 0.0
    seed: int = 42
    sinks: tuple[str, ...] = ("jsonl", "tensorboard")
    average: Average | PowerAverage = Average()
    optimizer: Adam = Adam()

    def __post_init__(self):
        check_types(self, "config.training.")
        counts = ("n_iters", "batch_size", "n_microbatches", "steps_per_jit", *PERIODS)
        named = {f"config.training.{name}": getattr(self, name) for name in counts}
        check_at_least(1, **named, **{"config.training.max_skipped": self.max_skipped})
        check_at_least(0, **{f"config.training.{name}": getattr(self, name) for name in OPTIONAL})
        check_at_least(0, sys.maxsize, **{"config.data.resident_bytes": self.resident_bytes})
        check_at_least(0, 2**32 - 1, **{"config.seed": self.seed})  # JAX keeps 32 bits
        if not 0 < self.stall_seconds < threading.TIMEOUT_MAX:
            raise ValueError(
                f"config.training.stall_seconds is {self.stall_seconds}: it must be positive, and "
                f"less than {threading.TIMEOUT_MAX:.0f}"
            )
        k = self.steps_per_jit
        periods = {name: getattr(self, name) for name in (*PERIODS, *OPTIONAL)}
        wrong = [f"config.training.{name} = {n}" for name, n in periods.items() if n % k]
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)}: with config.training.steps_per_jit = {k}, give multiples of "
                f"{k}"
            )
        check_sinks(self.sinks)

    @property
    def ema_period(self) -> int:
        """Steps between snapshots of the averages: ema_freq, or about 1/32 of the training."""
        k = self.steps_per_jit
        return self.ema_freq or max(k, self.n_iters // N_SNAPSHOTS // k * k)

    def batch_shape(self, mesh: Mesh) -> tuple[int, int]:
        """(microbatches, samples in each).

        Raises:
            ValueError: the devices, times the microbatches, do not divide the batch.
        """
        n, size = self.n_microbatches, self.batch_size
        if size % (n * mesh.size):
            raise ValueError(
                f"config.training.batch_size is {size}: it must be a multiple of {n * mesh.size}, "
                f"for {n} x {mesh.size} = config.training.n_microbatches x devices"
            )
        return n, size // n
