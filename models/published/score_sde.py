"""Format of score_sde's PyTorch version (Song et al. 2021): DDPM, NCSN++ and DDPM++.

The published network keeps its layers in a list in calling order: `all_modules.i` is the i-th layer
that ours calls. Inside a layer the names agree.
"""

import re

import numpy as np

from models.ncsnpp import NCSNpp
from models.published.base import Arrays, Format, Found, Skeleton, Source, Table, Tensor

LEAVES = {"kernel": "weight", "scale": "weight"}
DENSE = {"kernel": "W", "bias": "b"}  # of the layers that both call NIN


class ScoreSDE(Format):
    """A checkpoint of score_sde."""

    name = "score_sde"
    title = "a checkpoint of score_sde"

    def find(self, source: Source) -> Found | None:
        return None

    def clean(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The tensors of layers without the prefix "module."."""
        kept = {
            match[1]: array
            for name, array in arrays.items()
            if (match := re.fullmatch(r"(?:module\.)?(all_modules\..+)", name))
        }
        second = kept.get("all_modules.1.weight")
        if second is not None and second.ndim == 4:
            kept.pop("all_modules.0.W", None)  # of an unconditional NCSN++, which never uses it
        return kept

    def table(self, skeleton: Skeleton) -> Table:
        network = skeleton.network
        unused = isinstance(network, NCSNpp) and network.embedding_type == "fourier"
        first = int(unused and not network.conditional)
        numbers = {layer: i for i, layer in enumerate(skeleton.calls, first)}
        table = {}
        for layer, *modules, leaf in skeleton.shapes:
            nin = bool(modules) and modules[-1].startswith("NIN")
            theirs = (DENSE if nin else LEAVES).get(leaf, leaf)
            name = ".".join(["all_modules", str(numbers[layer]), *modules, theirs])
            table[layer, *modules, leaf] = Tensor(name, rows=nin)
        return table
