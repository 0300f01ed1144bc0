"""Networks that sample in few steps: what their output means, and the second time they see.

A consistency model is a score model whose estimate of the data, (x + sigma^2 score) / alpha, is a
sample. A mean flow sees t - r too, as one number more of its vector (models/conditions.py), and
gives the average velocity u(x, r, t) = A(t) x + B(t) F(c(t) x, label(t), t - r). A and B turn the
output of a parametrization into the velocity of the probability flow: 0 and 1 for "velocity".
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from models.parametrization import Coefficients, NoiseModel
from sde_lib import MeanFlow
from sde_lib.batch import Batch, PerSample, expand


@dataclasses.dataclass(frozen=True)
class ConsistencyModel(NoiseModel):
    """A network whose estimate of the data is the end of the probability flow."""

    gives: ClassVar[str] = "consistency"


@dataclasses.dataclass(frozen=True)
class MeanFlowModel(NoiseModel):
    """A network that gives average velocities of the probability flow.

    Raises:
        ValueError: a preconditioning with the parametrization "energy".
    """

    gives: ClassVar[str] = "mean_flow"

    def __post_init__(self):
        if self.preconditioning.name == "energy":
            raise ValueError(
                "config.model.parametrization='energy' gives no velocity: take 'velocity' for "
                "config.objective.name='mean_flow'"
            )

    def score_fn(
        self,
        params: Any,
        train: bool = False,
        dropout_key: PRNGKeyArray | None = None,
        observed: jax.Array | None = None,
        **conditions: Any,
    ) -> MeanFlow:
        """The score, by the velocity at r = t, with average velocities; see NoiseModel.score_fn."""
        if observed is not None:
            raise ValueError("observed is given, but mean flows are of complete data: leave it out")

        def network(interval: PerSample) -> Any:
            return self.applied(params, train, dropout_key, **_with_interval(conditions, interval))

        def score(x: Batch, t: PerSample) -> Batch:
            return self.preconditioning.score_fn(network(jnp.zeros_like(t)))(x, t)

        def average(x: Batch, r: PerSample, t: PerSample) -> Batch:
            a, b, _ = (expand(jnp.asarray(k), x) for k in self._coefficients(t))
            return a * x + b * network(t - r)(*self.preconditioning.network_inputs(x, t))

        return MeanFlow(score, average)

    def magnitudes(
        self, params: Any, x: Batch, t: PerSample, **conditions: Any
    ) -> dict[str, PerSample]:
        """Magnitudes as of NoiseModel.magnitudes, for the velocity at t."""
        return super().magnitudes(params, x, t, **_with_interval(conditions, jnp.zeros_like(t)))

    def _coefficients(self, t: PerSample) -> Coefficients:
        """A and B of the velocity f x - g^2 score / 2, and c of the input."""
        if self.preconditioning.name == "velocity":
            return 0.0, 1.0, 1.0
        a, b, c = self.preconditioning.coefficients(t)
        half = 0.5 * self.sde.diffusion(t) ** 2
        return self.sde.drift_coefficient(t) - half * a, -half * b, c


def _with_interval(conditions: dict[str, Any], interval: PerSample) -> dict[str, Any]:
    """The conditions with t - r as one more number of the network's vector."""
    vectors, number = conditions.get("vectors"), interval[:, None]
    numbers = number if vectors is None else jnp.concatenate([vectors, number], axis=1)
    return conditions | {"vectors": numbers}


MODELS = {"consistency": ConsistencyModel, "mean_flow": MeanFlowModel}
"""The models of few steps, by the objectives that train them (config.objective.name)."""
