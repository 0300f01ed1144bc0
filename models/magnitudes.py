"""Magnitudes of a network's activations.

Training changes the magnitudes of activations and weights where nothing holds them, and large ones
make updates small or computations in half precision overflow (Karras et al. 2024, arXiv 2312.02696,
Section 2 and Figure 3). EDM2 keeps them near 1.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def block_magnitudes(
    network: nn.Module, params: Any, *inputs: Any, **options: Any
) -> dict[str, Float[Array, " batch"]]:
    """The root mean square of each block's output, [B] by the block's name.

    Blocks are modules of the network itself whose class is named "...Block...", such as ResnetBlock
    or DiTBlock. A network without any gives {}, and a block whose output is no array is left out.

    Args:
        network: a linen module.
        params: its parameters.
        *inputs: of the network, such as x [B, ...] and labels [B].
        **options: keyword arguments of the network, such as class_labels.
    """

    def is_block(module: nn.Module, method: str) -> bool:
        return method == "__call__" and len(module.path) == 1 and "Block" in type(module).__name__

    apply: Any = partial(network.apply, {"params": params})
    capture = {"capture_intermediates": is_block, "mutable": ["intermediates"]}
    _, state = apply(*inputs, **options, **capture)
    found = {name: calls["__call__"][0] for name, calls in state.get("intermediates", {}).items()}
    return {name: _rms(out) for name, out in found.items() if isinstance(out, jax.Array)}


def _rms(x: Array) -> Float[Array, " batch"]:
    square = jnp.square(x.astype(jnp.float32))
    return jnp.sqrt(jnp.mean(square, axis=tuple(range(1, x.ndim))))
