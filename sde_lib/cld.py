"""Critically-damped Langevin diffusion, CLD (Dockhorn, Vahdat & Kreis 2022, arXiv 2112.07068).

Each data variable x has a velocity v, and only the velocities receive noise. The state is [x, v],
concatenated on the last axis: [B, ..., 2 C] for data [B, ..., C].
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from sde_lib.batch import (
    Batch,
    PerSample,
    as_float,
    as_number,
    expand,
    fold_in,
    math_of,
    normal,
    sample_keys,
)
from sde_lib.checks import known
from sde_lib.sde import SDE, Time, log_normal

VELOCITY_KEY = 1 << 24  # folded into a sample's key to draw its velocities at t = 0
SERIES = {  # exact to the precision for y < 2
    most: np.array([1 / math.factorial(k) for k in range(most, 2, -1)]) for most in (16, 26)
}


@dataclasses.dataclass(frozen=True)
class CLD(SDE):
    """dx = v / M beta dt, dv = -x beta dt - Gamma v / M beta dt + sqrt(2 Gamma beta) dw.

    M is the mass and Gamma = 2 sqrt(M) the critical damping (Eq. 5). Initial velocities are drawn
    from N(0, gamma M I); the prior is N(0, I) x N(0, M I).

    The score is grad_v log p_t(x, v), in an array of the state's shape: samplers ignore its
    position half, which is 0 for a trained model. sigma(t) is the standard deviation of v given x
    and x_0, so denoising score matching becomes hybrid score matching (Section 3.2), which
    conditions on x_0 and integrates v_0 out.

    The code uses w = v / sqrt(M) and tau = beta t / sqrt(M). In these units the mean of [x, w] is
    exp(-tau) [[1 + tau, tau], [-tau, 1 - tau]] times its start, and the prior is N(0, I).

    Attributes:
        beta: time scale of the diffusion, constant in t.
        mass: M.
        gamma: variance of the velocities at t = 0, divided by M.

    Raises:
        ValueError: a number that is not positive and finite, or gamma > 1.
    """

    beta: float = 4.0
    mass: float = 0.25
    gamma: float = 0.04

    is_scalar: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if not known(self.beta, self.mass, self.gamma):
            return
        positive = 0 < self.beta < math.inf and 0 < self.mass < math.inf
        if not (positive and 0 < self.gamma <= 1):
            raise ValueError(
                f"beta = {self.beta}, mass = {self.mass}, gamma = {self.gamma}: all three must be "
                "positive, with gamma of at most 1"
            )

    def alpha(self, t: Time) -> Array:
        """Raises ValueError: x and v have different factors, so there is no single alpha."""
        raise ValueError(
            "CLD has no noise level sigma / alpha: sample by 'symmetric_splitting', "
            "'euler_maruyama', 'probability_flow', or 'predictor_corrector' with the predictor "
            "'euler_maruyama' and no corrector; train at t uniform (noise_density, without "
            "importance_sampling) with the weighting 'variance' or likelihood_weighting, and the "
            "parametrization 'score_sde', 'epsilon' or 'score'"
        )

    def sigma(self, t: Time) -> Array:
        return self._std_v * self._conditional_std(t, self.gamma)

    def diffusion(self, t: Time) -> Array:
        """sqrt(2 Gamma beta), the diffusion of the velocities; positions have none."""
        rate = 4 * self._std_v * self.beta
        return jnp.full_like(as_float(t), math_of(rate).sqrt(rate))

    def drift(self, x: Batch, t: Time) -> Batch:
        x, v = jnp.split(x, 2, axis=-1)
        rate = self.beta / self.mass
        return jnp.concatenate([rate * v, -self.beta * x - 2 * self._std_v * rate * v], axis=-1)

    def covariance(self, t: Time, variance: float = 0.0) -> tuple[Array, Array, Array]:
        """Var x, Cov(x, v) and Var v at t for data of this variance; 0 conditions on x_0."""
        tau, decay, p = self._terms(t)
        gamma, data = self.gamma * decay, variance * decay
        xx = tau**2 * (tau * p + gamma) + data * (1 + tau) ** 2
        xw = tau * (2 * tau * decay + gamma * (1 - tau) - data * (1 + tau))
        ww = tau**3 * p + 4 * tau * decay + gamma * (1 - tau) ** 2 + data * tau**2
        return xx, self._std_v * xw, self.mass * ww

    def noised(self, x0: Batch, t: Time, z: Batch) -> Batch:
        return self._transition(x0, jnp.zeros_like(x0), t, z, self.gamma)

    def noisy(self, x: Batch) -> Batch:
        return x * _by_half(x, 0.0, 1.0)

    def state_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (*shape[:-1], 2 * shape[-1])

    def initial_state(
        self, key: PRNGKeyArray, x0: Batch, first_index: int | Array = 0
    ) -> tuple[Batch, PerSample]:
        with jax.ensure_compile_time_eval():  # at train_t_min they are wider than at 0
            variance = as_number(self.covariance(self.train_t_min)[2])
        std = math_of(variance).sqrt(variance)
        v = std * normal(fold_in(sample_keys(key, len(x0), first_index), VELOCITY_KEY), x0.shape)
        return jnp.concatenate([x0, v], axis=-1), log_normal(v, std)

    def data_of(self, x: Batch) -> Batch:
        return x[..., : x.shape[-1] // 2]

    def denoise(self, x: Batch, t: Time, score: Batch) -> Batch:
        """E[x_0 | x_t, v_t] in the position half; the velocities are returned unchanged.

        Tweedie's formula gives two equations, for E[x_0] and the unknown score of the positions.
        Eliminating that score leaves E[x_0].
        """
        tau, decay, p = (expand(term, x) for term in self._terms(t))
        x, v = jnp.split(x, 2, axis=-1)
        w = (v + expand(self.sigma(t) ** 2, v) * jnp.split(score, 2, axis=-1)[1]) / self._std_v
        # Covariances given x_0, both divided by tau.
        xw = decay * (2 * tau + self.gamma * (1 - tau))
        xx = tau * (tau * p + self.gamma * decay)
        x0 = jnp.exp(tau) * (xw * x - xx * w) / ((1 + tau) * xw + tau * xx)
        return jnp.concatenate([x0, v], axis=-1)

    def reverse_free(self, x: Batch, dt: Time, z: Batch) -> Batch:
        """Exact step dt of the reverse SDE with the prior's score, -v / M, in place of the model's.

        This is the forward SDE of [x, -v], the analytic half of symmetric splitting (Section 3.3).
        x and z are states; z is standard normal.
        """
        x, v = jnp.split(x, 2, axis=-1)
        return self._transition(x, -v / self._std_v, dt, z, 0.0) * _by_half(z, 1.0, -1.0)

    def prior_sample(
        self, key: PRNGKeyArray, shape: Sequence[int], first_index: int | Array = 0
    ) -> Batch:
        z = normal(sample_keys(key, shape[0], first_index), shape)
        return z * _by_half(z, 1.0, self._std_v)

    def prior_logp(self, x: Batch) -> PerSample:
        x, v = jnp.split(x, 2, axis=-1)
        return log_normal(x, 1.0) + log_normal(v, self._std_v)

    @property
    def _std_v(self) -> float:
        """Standard deviation of the velocities under the prior, sqrt(M)."""
        return math_of(self.mass).sqrt(self.mass)

    def _terms(self, t: Time) -> tuple[Array, Array, Array]:
        """The terms tau, exp(-2 tau), and p = (1 - exp(-2 tau) (1 + 2 tau + 2 tau^2)) / tau^3.

        tau^3 p is the variance of x given x_0 and v_0. With y = 2 tau it equals
        exp(-y) (y^3 / 3! + y^4 / 4! + ...), a series that keeps all digits near 0.
        """
        tau = as_float(t) * (self.beta / self._std_v)
        y, decay = 2 * tau, jnp.exp(-2 * tau)
        late = jnp.maximum(y, 2.0)
        closed = -8 * jnp.expm1(-late + jnp.log1p(late + 0.5 * late**2)) / late**3
        series = SERIES[16 if y.dtype == jnp.float32 else 26]
        return tau, decay, jnp.where(y < 2, 8 * decay * jnp.polyval(series, y), closed)

    def _conditional_std(self, t: Time, gamma: float) -> Array:
        """Standard deviation of w given x and x_0 (and w_0, for gamma = 0): sqrt(det / xx)."""
        tau, decay, p = self._terms(t)
        # A sum of positive terms: differences of covariances would lose all digits near t = 0.
        det = tau**3 * p**2 + 4 * tau * decay * (p - decay)
        det += gamma * decay * (p * ((1 - tau) ** 2 + tau**2) + 4 * tau * decay)
        return jnp.sqrt(tau * det / (tau * p + gamma * decay))

    def _transition(self, x: Batch, w: Batch, t: Time, z: Batch, gamma: float) -> Batch:
        """Draw of the state after time t, from x and N(w, gamma), with the noise z."""
        tau, decay, p = (expand(term, x) for term in self._terms(t))
        z_x, z_w = jnp.split(z, 2, axis=-1)
        root = jnp.sqrt(tau * p + gamma * decay)  # tau * root is the standard deviation of x
        shared = decay * (2 * tau + gamma * (1 - tau)) / root
        then_x = jnp.exp(-tau) * ((1 + tau) * x + tau * w) + tau * root * z_x
        then_w = jnp.exp(-tau) * ((1 - tau) * w - tau * x) + shared * z_x
        then_w += expand(self._conditional_std(t, gamma), x) * z_w
        return jnp.concatenate([then_x, self._std_v * then_w], axis=-1)


def _by_half(x: Batch, of_x: float, of_v: float) -> Array:
    """Factors [2 C] of a state's channels: of_x for the positions, of_v for the velocities."""
    return jnp.repeat(jnp.array([of_x, of_v]), x.shape[-1] // 2)
