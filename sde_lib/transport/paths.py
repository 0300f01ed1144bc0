"""Paths between data and their ends: noise or source samples, paired or not, lines or bridges."""

from jaxtyping import Array, Key

from sde_lib.batch import Batch, PerSample, fold_in, normal
from sde_lib.sde import SDE
from sde_lib.transport.bridges import bridged, end_noise
from sde_lib.transport.couplings import Coupling


def noise_at(
    keys: Key[Array, " batch"],
    sde: SDE,
    x0: Batch,
    t: PerSample,
    z: Batch,
    coupling: Coupling | None,
    source: Batch | None,
    bridge: bool,
) -> Batch:
    """The noise at t of data with a coupling or a source, (x_t - alpha x_0) / sigma.

    Args:
        keys: random keys, one per sample.
        sde: the forward SDE.
        x0: [B, ...] data.
        t: [B] times.
        z: standard normal noise of the shape of x0: the end of the paths without a source.
        coupling: pairs x0 with these ends within groups; None: as they come.
        source: the states at t_max.
        bridge: the states are those of the SDE between its ends, and not the points between them.

    Raises:
        ValueError: an SDE whose state is more than the data, or a source of another shape.
    """
    if not sde.is_scalar:
        raise ValueError(
            f"the state of {type(sde).__name__} has velocities beside the data, which couplings "
            "and sources do not know: take another SDE, or leave them out"
        )
    end = z if source is None else source
    if end.shape != x0.shape:
        raise ValueError(
            f"the source has the shape {end.shape}, the data {x0.shape}: they must be the same"
        )
    end = end if coupling is None else coupling(fold_in(keys, 3), x0, end)
    end = end if source is None else end_noise(sde, x0, end)
    return bridged(sde, t, end, normal(fold_in(keys, 4), z.shape)) if bridge else end
