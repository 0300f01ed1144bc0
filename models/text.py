"""Texts as a network reads them."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from sde_lib.checks import check_at_least


def encode(captions: Iterable[str], length: int) -> Int[np.ndarray, "captions length"]:
    """The UTF-8 bytes of captions, plus 1, in rows of `length`; 0 after their ends.

    Raises:
        ValueError: a caption of more bytes, or a length below 1.
    """
    check_at_least(1, **{"config.model.text_length": length})
    captions = list(map(str, captions))
    rows = np.zeros((len(captions), length), np.int32)
    for row, caption in zip(rows, captions, strict=True):
        code = np.frombuffer(caption.encode(), np.uint8)
        if len(code) > length:
            raise ValueError(
                f"the text {caption!r} has {len(code)} bytes, and the model reads {length}: "
                "shorten it, or train a model with a larger config.model.text_length"
            )
        row[: len(code)] = code + 1
    return rows
