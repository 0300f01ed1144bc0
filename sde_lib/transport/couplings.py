"""Minibatch optimal transport: which noise a sample gets, within groups of a batch.

Training pairs data x_0 with noise z. Any joint law of the two with the right marginals gives a flow
from noise to data: its velocity is E[alpha' x_0 + sigma' z | x_t], with the denoised data
E[x_0 | x_t] and the noise E[z | x_t] in the place of their means under independent pairs. Pairs of
nearly least distance have paths that are nearly straight and do not cross (Tong et al. 2023,
arXiv 2302.00482; Pooladian et al. 2023, arXiv 2304.14772).

score_fn is then -E[z | x_t] / sigma, which every solver of the probability flow takes as before.
It is not the gradient of log p_t: the reverse SDE and Langevin steps are wrong with it.

A group is `group` consecutive samples of the batch, whatever the devices: which noise a sample gets
depends on the samples of its group alone. Squared distances |x_0 - z|^2 differ from -2 x_0 z by
terms of one of the two alone, which change no plan.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from sde_lib.batch import Batch
from sde_lib.checks import check_at_least, check_positive, check_types, create_by_name

MOST_GROUP = 2048  # its costs are 16 MB; an exact plan takes minutes
MOST_COSTS = MOST_GROUP**2  # of groups that are coupled at once
MOST_ITERATIONS = 1000
TOLERANCE = 1e-3  # of a plan's marginals, relative

Costs = Float[Array, "group group"]


@dataclasses.dataclass(frozen=True)
class Coupling(abc.ABC):
    """Base class of couplings within groups.

    Attributes:
        group: samples that are coupled with each other; a batch has whole groups, but for the last.

    Raises:
        ValueError: a group below 2, or of more than MOST_GROUP samples.
    """

    group: int = 64

    def __post_init__(self):
        check_types(self)
        check_at_least(2, group=self.group)
        if self.group > MOST_GROUP:
            raise ValueError(
                f"group is {self.group}: it must be at most {MOST_GROUP}, because memory grows with"
                " group^2 and time with group^3; give a smaller one, such as 64"
            )

    @abc.abstractmethod
    def partners(self, keys: Key[Array, " group"], x0: Batch, z: Batch) -> Int[Array, " group"]:
        """The row of z that each row of x0 gets, within one group; rows are vectors."""

    def __call__(self, keys: Key[Array, " batch"], x0: Batch, z: Batch) -> Batch:
        """The rows of z [B, ...] in the order of their partners in x0, of the same shape.

        Args:
            keys: random keys, one per sample.
            x0: [B, ...] data, a whole number of groups and a rest, which is a group of its own.
            z: noise, or samples of another source.
        """
        if z.shape != x0.shape:
            raise ValueError(
                f"a coupling is of samples of one shape: those of the source have {z.shape[1:]}, "
                f"the data {x0.shape[1:]}, {len(z)} and {len(x0)} of them"
            )
        n = len(x0) // self.group * self.group
        parts = [(slice(0, n), n // self.group), (slice(n, None), 1)]
        at_once, found = max(1, MOST_COSTS // self.group**2), []
        for rows, n_groups in parts:
            if len(x0[rows]):
                split = [a[rows].reshape(n_groups, -1, *a.shape[1:]) for a in (keys, x0, z)]
                paired = jax.lax.map(lambda group: self._paired(*group), split, batch_size=at_once)
                found.append(paired.reshape(x0[rows].shape))
        return jnp.concatenate(found)

    def _paired(self, keys: Key[Array, " group"], x0: Batch, z: Batch) -> Batch:
        rows = (a.reshape(len(a), -1).astype(float) for a in (x0, z))
        return z[self.partners(keys, *rows)]


@dataclasses.dataclass(frozen=True)
class Assignment(Coupling):
    """The permutation of the noise of least total squared distance, by the Hungarian algorithm.

    It is the optimal plan between the group's samples and the group's noise. It takes about
    group^3 operations.

    Fields: see Coupling.
    """

    def partners(self, keys: Key[Array, " group"], x0: Batch, z: Batch) -> Int[Array, " group"]:
        rows, columns = optax.assignment.hungarian_algorithm(_costs(x0, z))
        return jnp.zeros(len(x0), int).at[rows].set(columns)


@dataclasses.dataclass(frozen=True)
class Sinkhorn(Coupling):
    """A draw from the entropic plan exp((f_i + g_j - |x_i - z_j|^2 / 2) / entropy).

    Potentials f and g, by Sinkhorn's iterations (Cuturi 2013, arXiv 1306.0895), give uniform
    marginals. A sample draws its noise from its row, independently of the others, so that some
    noise of a group is drawn twice and some not at all. Entropy 0 would be the assignment, infinite
    entropy independent pairs.

    Attributes:
        entropy: in units of the squared distance; None: 0.05 times the group's mean of
            |x - z|^2 / 2.

    Raises:
        ValueError: an entropy that is not positive.
    """

    entropy: float | None = None

    def __post_init__(self):
        super().__post_init__()
        check_positive(entropy=self.entropy)

    def partners(self, keys: Key[Array, " group"], x0: Batch, z: Batch) -> Int[Array, " group"]:
        entropy = self.entropy
        if entropy is None:
            entropy = 0.05 * (jnp.mean(_costs(x0, z)) + 0.5 * jnp.mean(_squares(x0) + _squares(z)))
        log_plan = entropic_plan(_costs(x0, z) / entropy)
        return jax.vmap(jax.random.categorical)(keys, log_plan)


def entropic_plan(costs: Costs) -> Costs:
    """The log of the plan exp(f_i + g_j - costs) with uniform marginals, by Sinkhorn's iterations.

    Its columns are uniform, and its rows to the relative TOLERANCE, or as near as MOST_ITERATIONS
    bring them.
    """
    log_n = jnp.log(float(len(costs)))

    def iterate(state):
        g, _, k = state
        f = -log_n - jax.nn.logsumexp(g - costs, axis=1)
        new = -log_n - jax.nn.logsumexp(f[:, None] - costs, axis=0)
        return new, jnp.max(jnp.abs(new - g)), k + 1

    def goes_on(state):
        _, change, k = state
        return (change > TOLERANCE) & (k < MOST_ITERATIONS)

    start = jnp.zeros(len(costs)), jnp.array(jnp.inf), 0
    g, *_ = jax.lax.while_loop(goes_on, iterate, start)
    f = -log_n - jax.nn.logsumexp(g - costs, axis=1)
    return f[:, None] + g - costs


COUPLINGS: dict[str, Any] = {"assignment": Assignment, "sinkhorn": Sinkhorn}


def create(name: str, **options: Any) -> Coupling:
    """Makes the coupling `name` in COUPLINGS. The options are its fields.

    Raises:
        ValueError: an unknown name or option, or a value out of range.
    """
    return create_by_name("coupling", COUPLINGS, name, options)


def _costs(x: Batch, z: Batch) -> Costs:
    """-x z: half the squared distances, but for terms of x or of z alone."""
    return -jnp.matmul(x, z.T, precision="highest")


def _squares(x: Batch) -> Float[Array, " group"]:
    return jnp.sum(x**2, axis=1)
