"""Texts as arrays: bytes of captions and prompts, or embeddings of them in files."""

import dataclasses
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from experiments.data.dataset import Dataset, Split
from experiments.runs.files import open_arrays
from models import text

Texts = Int[np.ndarray, "texts bytes"] | Float[np.ndarray, "texts tokens width"]
FILE = "an .npz file of float arrays [texts, tokens, width]"


@dataclasses.dataclass(frozen=True)
class ByteReader:
    """Captions and prompts by their bytes (models.text.encode).

    Attributes:
        length: the most bytes that the network reads.
        prompt: prompts to sample, in turn.
        negative_prompt: a prompt to guide away from; "" for none.

    Raises:
        ValueError: a prompt that is too long.
    """

    length: int
    prompt: tuple[str, ...] = ()
    negative_prompt: str = ""

    def __post_init__(self):
        text.encode([*self.prompt, self.negative_prompt], self.length)

    def from_data(self, dataset: Dataset, split: Split) -> Texts:
        captions = getattr(dataset, f"{split}_captions")
        if captions is None:
            raise ValueError(
                "config.model.text is 'bytes', but the data have no captions: take data with some "
                "(docs/howto/own_data.md), or leave config.model.text empty"
            )
        return text.encode(["" if each is None else str(each) for each in captions], self.length)

    def prompts(self) -> Texts | None:
        return text.encode(self.prompt, self.length) if self.prompt else None

    def negative(self) -> Texts | None:
        return text.encode([self.negative_prompt], self.length) if self.negative_prompt else None

    def empty(self) -> np.ndarray:
        return text.encode([""], self.length)[0]

    def asked(self, prompts: Any) -> Self:
        texts = np.asarray(prompts)
        if texts.dtype.kind not in "OUS":
            raise ValueError(f"the condition 'text' is {texts.dtype}: it must be strings")
        return dataclasses.replace(self, prompt=tuple(map(str, prompts)))


@dataclasses.dataclass(frozen=True)
class EmbeddingReader:
    """Embeddings of captions and prompts, from .npz files or with the data.

    Attributes:
        path: the file of the data's captions, with arrays "train" and "test"; "": the data have
            embeddings of their own.
        width: features of a token.
        prompt_path: the file of "prompt" and, if wanted, "negative_prompt"; "" for none.
        drawn: embeddings of the prompts, in place of those of a file; None for none.

    Raises:
        ValueError: no such file, or other arrays than these.
    """

    path: str
    width: int
    prompt_path: str = ""
    drawn: Texts | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self):
        negative = self.negative()
        if negative is None:
            return
        prompts = self.prompts()
        assert prompts is not None
        if negative.shape != (1, *prompts.shape[1:]):
            raise ValueError(
                f"config.sampling.embeddings, {self.prompt_path}: 'negative_prompt' has the shape "
                f"{negative.shape}, it must be (1, {', '.join(map(str, prompts.shape[1:]))}), one "
                "as long as each 'prompt'"
            )

    def from_data(self, dataset: Dataset, split: Split) -> Texts:
        n, own = len(getattr(dataset, split)), dataset.conditions(split).get("embeddings")
        if not self.path and own is None:
            raise ValueError(f"config.model.text='embeddings' needs config.data.embeddings, {FILE}")
        if not self.path:
            return self._tokens(f"the embeddings of the {split} data", own)
        rows = _read(self.path, "config.data.embeddings", split)
        if (len(rows), rows.shape[2]) != (n, self.width):
            raise ValueError(
                f"config.data.embeddings, {self.path}, has {len(rows)} of width {rows.shape[2]} in "
                f"{split!r}: there are {n} such images, and config.model.text_width is {self.width}"
            )
        return rows

    def _tokens(self, what: str, values: Any) -> Texts:
        """Embeddings as [N, tokens, width]; those of one token may be [N, width]."""
        rows = np.asarray(values)
        rows = rows[:, None] if rows.ndim == 2 else rows
        if rows.ndim != 3 or rows.shape[2] != self.width or rows.dtype.kind != "f":
            raise ValueError(
                f"{what} are {rows.dtype} of the shape {np.shape(values)}: they must be floats "
                f"[N, {self.width}] or [N, tokens, {self.width}], as config.model.text_width is "
                f"{self.width}"
            )
        if not np.isfinite(rows).all():
            raise ValueError(f"{what} have numbers that are not finite: leave such samples out")
        return rows.astype(np.float32)

    def prompts(self) -> Texts | None:
        if self.drawn is not None:
            return self.drawn
        if not self.prompt_path:
            return None
        return _read(self.prompt_path, "config.sampling.embeddings", "prompt")

    def negative(self) -> Texts | None:
        path, name = self.prompt_path, "negative_prompt"
        if not path or not Path(path).is_file():
            return None
        with open_arrays(path, FILE) as file:
            has_negative = name in file
        return _read(path, "config.sampling.embeddings", name) if has_negative else None

    def empty(self) -> np.ndarray:
        if not self.path:  # one empty token, which stands for as many as there are
            return np.zeros((1, self.width), np.float32)
        return np.zeros_like(_read(self.path, "config.data.embeddings", "test")[0])

    def asked(self, prompts: Any) -> Self:
        if np.asarray(prompts).dtype.kind in "OUS":
            raise ValueError(
                f"the prompt is {prompts[0]!r}, but this model reads embeddings: give a file of "
                "them as config.sampling.embeddings"
            )
        rows = np.asarray(prompts)
        rows = rows[None] if rows.ndim == 1 else rows
        return dataclasses.replace(self, drawn=self._tokens("the condition 'text'", rows))


def _read(path: str, field: str, name: str) -> Texts:
    if not Path(path).is_file():
        raise ValueError(f"{field} is {path!r}: give {FILE}")
    with open_arrays(path, FILE) as file:
        if name not in file:
            raise ValueError(f"{field}, {path}, has no array {name!r}: give {FILE}")
        rows = file[name]
    if rows.ndim != 3 or not np.issubdtype(rows.dtype, np.floating):
        raise ValueError(f"{field}, {path}: {name!r} is {rows.dtype} {rows.shape}; give {FILE}")
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"{field}, {path}: {name!r} has numbers that are not finite in float32")
    return rows
