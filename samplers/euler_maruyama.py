"""The Euler-Maruyama method on the reverse-time SDE."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Self

from jaxtyping import Array, PRNGKeyArray

from samplers.base import Samples, Start
from samplers.noise_levels import Levels
from samplers.predictor_corrector import PredictorCorrector
from sde_lib import SDE, ScoreFn


@dataclasses.dataclass(frozen=True)
class EulerMaruyama:
    """The Euler-Maruyama sampler (Song et al. 2021, App. D): n_steps steps down to t_min.

    They are even in t, but those of EDM under EDM (sde_lib.EDM). A step takes one evaluation.
    Raises ValueError for n_steps below 1.
    """

    n_steps: int = 1000

    noise_share: ClassVar[float | None] = 1.0

    def __post_init__(self):
        self._as_predictor()

    def _as_predictor(self) -> PredictorCorrector:
        return PredictorCorrector(self.n_steps, "euler_maruyama", corrector="none", denoise=False)

    def own_levels(self, sde: SDE) -> Levels:
        """Noise levels at the times between which the steps from the prior are."""
        return self._as_predictor().own_levels(sde)

    def from_levels(self, levels: Levels) -> Self:
        """A copy with as many steps as there are between these levels, the last of own_levels."""
        return dataclasses.replace(self, n_steps=len(levels) - 1)

    def __call__(
        self,
        key: PRNGKeyArray,
        sde: SDE,
        score_fn: ScoreFn,
        shape: Sequence[int],
        first_index: int | Array = 0,
        n_frames: int = 0,
        start: Start | None = None,
    ) -> Samples:
        """Draws samples of `shape` = (B, ...). The arguments are those of PredictorCorrector."""
        return self._as_predictor()(key, sde, score_fn, shape, first_index, n_frames, start)
