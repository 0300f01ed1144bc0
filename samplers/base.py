"""What a sampler returns."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class Samples(NamedTuple):
    """What a sampler returns.

    x: [B, ...] samples. nfe: network evaluations made for each. path: [n_frames, B, ...], states
    at even intervals from just after the prior to t_min.
    """

    x: Float[Array, "batch *shape"]
    nfe: int | Int[Array, ""]
    path: Float[Array, "frames batch *shape"]
