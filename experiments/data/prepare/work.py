"""Reading and preparing images in several processes, in the order of their names."""

import hashlib
import multiprocessing
import os
import signal
import threading
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from experiments.data.image_files import UnfitError
from experiments.data.prepare.picture import Picture, Transform
from experiments.runs.files import reason

AT_ONCE = 32  # images that a process prepares before it hands them over
AHEAD = 3  # such groups for each process, that are under way or wait to be written
FEW = 128  # images for each process, at least: one takes seconds to start


class Done(NamedTuple):
    """The result of an image file.

    Attributes:
        name: of the file.
        picture: the image; None if it could not be used.
        digest: of the file's bytes, which decides on the split.
        failure: the kind of fault for which it could not be used.
        detail: what its reader said.
    """

    name: str
    picture: Picture | None
    digest: bytes = b""
    failure: str = ""
    detail: str = ""


def prepare_all(
    root: Path, names: Sequence[str], transform: Transform, processes: int | None = None
) -> Iterator[Done]:
    """Yields what became of each file, in the order of the names.

    Args:
        root: a folder, or a .zip.
        names: of the files in it.
        transform: to apply.
        processes: None: one for each core, if there are enough files.
    """
    if processes is None:
        processes = min(os.cpu_count() or 1, len(names) // FEW)
    if processes < 2:
        for name in names:
            yield _prepare(root, name, transform)
        return
    groups = (names[first : first + AT_ONCE] for first in range(0, len(names), AT_ONCE))
    context = multiprocessing.get_context("spawn")  # a fork would copy JAX's threads' locks
    executor = ProcessPoolExecutor(processes, context, initializer=_follow_parent)
    waiting: deque[Future[list[Done]]] = deque()
    try:
        for group in groups:
            waiting.append(executor.submit(_prepare_group, root, group, transform))
            if len(waiting) >= AHEAD * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ValueError(
            "a process that prepares images was ended by the system, perhaps as memory ran out: "
            "start again, with fewer config.prepare.processes"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Ends this process when its parent ends, however that is; Ctrl-C is the parent's matter."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _prepare_group(root: Path, names: Sequence[str], transform: Transform) -> list[Done]:
    return [_prepare(root, name, transform) for name in names]


def _prepare(root: Path, name: str, transform: Transform) -> Done:
    try:
        encoded = _read(root, name)
        digest = hashlib.blake2b(encoded, digest_size=16).digest()
        with warnings.catch_warnings(action="ignore"):  # Pillow warns of what is repaired
            return Done(name, transform(encoded), digest)
    except FileNotFoundError:
        return Done(name, None, failure="vanished while this ran")
    except UnfitError as error:
        return Done(name, None, failure=str(error))
    except Image.DecompressionBombError:
        return Done(name, None, failure=f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels")
    except UnidentifiedImageError:
        return Done(name, None, failure="damaged, or no image")
    except Exception as error:  # decoders raise many kinds for a broken file
        return Done(name, None, failure="damaged, or not to be read", detail=reason(error))


def _read(root: Path, name: str) -> bytes:
    return (root / name).read_bytes() if root.is_dir() else _archive(root).read(name)


@lru_cache(1)
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
