"""Images that are decoded when a batch needs them, for data sets larger than memory."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from jaxtyping import UInt8
from PIL import UnidentifiedImageError

from experiments.data.checked import Checked, marks
from experiments.data.image_files import MODES, RangeError, UnfitError, decode, examine
from experiments.data.lazy_arrays import UnreadableError
from experiments.runs import progress
from experiments.runs.files import reason

POOL = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "decode")
PAUSES = (0.1, 1.0)  # seconds before a file that could not be read is tried again
AT_ONCE = 1024  # files handed to the pool at a time


@dataclasses.dataclass(frozen=True)
class LazyImages:
    """A sequence like a uint8 array [N, H, W, C], indexed by an array or a slice.

    Attributes:
        source: the data set's name in errors.
        keys: [N], names or numbers of the encoded files; errors name them.
        open: a function that opens the encoded file of a key.
        image_shape: (H, W, C) of every image.
        stamp: a text for a key that changes with the file's content, such as its size and time, by
            which `check` remembers the files that it has decoded; None: it remembers none.
    """

    source: str
    keys: np.ndarray
    open: Callable[[Any], IO[bytes]]
    image_shape: tuple[int, int, int]
    stamp: Callable[[Any], str] | None = None
    dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.image_shape)

    def __getitem__(self, index: slice | np.ndarray) -> UInt8[np.ndarray, "batch h w c"]:
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        batch = np.empty((len(index), *self.image_shape), np.uint8)
        errors: dict[int, Exception] = {}
        for i, found in enumerate(POOL.map(partial(self._read, decode), self.keys[index])):
            if isinstance(found, Exception):
                errors[int(index[i])] = found
            else:
                batch[i] = found
        if errors:
            first, error = next(iter(errors.items()))
            raise UnreadableError(str(self._error(self.keys[first], error)), errors) from error
        return batch

    def check(
        self, cache: Path | None = None, first_frame: bool = False, max_unreadable: float = 0.0
    ) -> dict[int, str]:
        """Decodes every file once, and returns why some cannot be read, by their indices.

        Args:
            cache: the folder that remembers the good files; None: none are remembered.
            first_frame: take the first of several pages or frames.
            max_unreadable: the share of the files that may be unreadable.

        Raises:
            ValueError: a file that does not fit, or too many unreadable ones.
        """
        files = marks(f"{self.source} {self.image_shape} {first_frame}", self._stamped())
        name = f"{marks(self.source, [''])[0]:016x}"
        memory = Checked(cache / "checked" / name if cache and self.stamp else None)
        good, errors = memory.know(files), {}
        todo = np.flatnonzero(~good)
        look = partial(examine, first_frame=first_frame)
        shown = progress.track(todo.tolist(), f"checking {self.source}", "image")
        try:
            for i, error in zip(shown, self._attempts(look, todo), strict=True):
                if isinstance(error, RangeError):
                    error = self._whole_range(look)
                if isinstance(error, UnfitError):
                    raise self._error(self.keys[i], error)
                if error:
                    errors[i] = error
                good[i] = not error
        finally:
            memory.keep(files[good])
        if len(errors) > max_unreadable * len(self):
            self._refuse(errors)
        return {i: f"{self.keys[i]} ({_reason(error)})" for i, error in errors.items()}

    def _stamped(self) -> Iterator[str]:
        """The name and the stamp of each file."""
        parts = np.array_split(self.keys, 1 + len(self) // AT_ONCE)
        return chain.from_iterable(POOL.map(lambda keys: [*map(self._stamp, keys)], parts))

    def _stamp(self, key: Any) -> str:
        try:
            return f"{key}\n{self.stamp(key) if self.stamp else ''}"
        except OSError:  # reading the file will say why; until then it is not known
            return f"{key}\nunknown at {time.time_ns()}"

    def _attempts(self, use: Callable[..., Any], indices: np.ndarray) -> Iterator[Exception | None]:
        """The error that the use of each file raises; None if it goes well."""
        for first in range(0, len(indices), AT_ONCE):
            keys = self.keys[indices[first : first + AT_ONCE]]
            yield from POOL.map(partial(self._attempt, use), keys)

    def _attempt(self, use: Callable[..., Any], key: Any) -> Exception | None:
        found = self._read(use, key)
        return found if isinstance(found, Exception) else None

    def _read(self, use: Callable[..., Any], key: Any) -> Any:
        """Returns use(encoded, shape), or the error of a file that cannot be used."""
        try:
            return self._retried(use, key)
        except Exception as error:  # decoders raise many kinds for a broken file
            return error

    def _retried(self, use: Callable[..., Any], key: Any) -> Any:
        """Returns use(encoded, shape). It is tried again, after a pause if the system failed."""
        for pause in PAUSES:
            try:
                return self._once(use, key)
            except UnfitError:
                raise
            except Exception as error:  # likewise
                time.sleep(pause if getattr(error, "errno", None) else 0)
        return self._once(use, key)

    def _once(self, use: Callable[..., Any], key: Any) -> Any:
        with self.open(key) as file:
            encoded = file.read()
        return use(encoded, self.image_shape)

    def _whole_range(self, use: Callable[..., Any]) -> RangeError:
        """The range of all files with more than 8 bits."""
        found = self._attempts(use, np.arange(len(self)))
        return RangeError.joined([error for error in found if isinstance(error, RangeError)])

    def _error(self, key: Any, error: Exception) -> ValueError:
        return ValueError(f"{self.source}: {key} cannot be used: {_reason(error)}")

    def _refuse(self, errors: dict[int, Exception]) -> NoReturn:
        """Raises the error of the first unreadable file, with the number of all of them."""
        first = next(iter(errors))
        message = str(self._error(self.keys[first], errors[first]))
        if len(errors) > 1:
            message += f" (the first of {len(errors)} unreadable files among {len(self)})"
        share = np.ceil(1000 * len(errors) / len(self)) / 1000
        if share < 1:
            message += f"; give intact files, or set config.data.max_unreadable={share:g} to leave "
            message += "such out"
        raise ValueError(message)


def check_channels(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape (H, W, C). Raises ValueError for pixels that image files do not have."""
    if len(shape) != 3:
        raise ValueError(
            f"config.data.shape is {shape}: image files have the shape (height, width, channels)"
        )
    height, width, channels = shape
    if channels not in MODES:
        raise ValueError(
            f"config.data.num_channels is {channels}: image files have 1 (grey) or 3 (RGB)"
        )
    return height, width, channels


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged, or no image"
    return reason(error)
