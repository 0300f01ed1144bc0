"""Conditioning on texts: captions in training, prompts in sampling."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from experiments.data.dataset import Dataset, Split
from experiments.pipeline.conditions.base import Arrays, Load, in_turn


class TextReader(Protocol):
    """A way to make arrays of texts."""

    def from_data(self, dataset: Dataset, split: Split) -> np.ndarray:
        """The captions of one split of the data."""
        ...

    def prompts(self) -> np.ndarray | None:
        """The prompts that samples are drawn for, in turn; None if none are given."""
        ...

    def negative(self) -> np.ndarray | None:
        """The negative prompt, [1, ...]; None if none is given."""
        ...

    def empty(self) -> np.ndarray:
        """The empty text, without its first axis."""
        ...

    def asked(self, prompts: Any) -> "TextReader":
        """The reader with other prompts, a sequence of texts or an array of embeddings."""
        ...


@dataclasses.dataclass(frozen=True)
class Text:
    """A text: captions of the data, and prompts of the samples.

    Without prompts, samples are drawn for the captions of the test data, in turn.

    Attributes:
        reader: makes arrays of texts.
    """

    reader: TextReader
    droppable: ClassVar[bool] = True
    kind: ClassVar[str] = "text"
    keywords: ClassVar[tuple[str, ...]] = ("text",)

    @property
    def is_asked(self) -> bool:
        return self.reader.prompts() is not None

    def asked(self, prompt: str | Sequence[str] | Any) -> "Text":
        """A copy that draws these prompts, or embeddings of prompts, in turn."""
        prompts = (prompt,) if isinstance(prompt, str) else prompt
        return dataclasses.replace(self, reader=self.reader.asked(prompts))

    def against(self, negative: str) -> "Text":
        """A copy that guides away from this text; "" for none.

        Raises:
            ValueError: a text that is too long, or a model that reads embeddings.
        """
        if not hasattr(self.reader, "negative_prompt"):
            raise ValueError(
                f"the negative prompt is {negative!r}, but this model reads embeddings: give "
                "'negative_prompt' in the file of config.sampling.embeddings"
            )
        return dataclasses.replace(
            self,
            reader=dataclasses.replace(self.reader, negative_prompt=negative),  # pyright: ignore
        )

    def given(self, values: str | Sequence[str] | Any) -> Arrays:
        return {"text": self.asked(values).reader.prompts()}

    def from_data(self, dataset: Dataset, split: Split) -> Arrays:
        return {"text": self.reader.from_data(dataset, split)}

    def for_samples(self, indices: np.ndarray, dataset: Load) -> Arrays:
        texts = self.reader.prompts()
        if texts is None:
            texts = self.reader.from_data(dataset(), "test")
        return {"text": in_turn(texts, indices)}

    def null(self, n: int) -> Arrays:
        empty = self.reader.empty()
        return {"text": np.broadcast_to(empty, (n, *empty.shape))}

    def negative(self, n: int) -> Arrays:
        text = self.reader.negative()
        return {} if text is None else {"text": np.broadcast_to(text, (n, *text.shape[1:]))}
