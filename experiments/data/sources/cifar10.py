"""CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 images of 32 x 32 pixels in 10 classes."""

import tarfile
from pathlib import Path

import numpy as np

from experiments.data.dataset import Dataset, DataSpec
from experiments.data.sources import npz
from experiments.data.sources.download import check_md5, fetch
from experiments.data.sources.members import check_inside

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]
TEST = ["test_batch.bin"]
RECORD = 1 + 3 * 32 * 32  # bytes: the class, then the red, the green and the blue plane


def load(spec: DataSpec, url: str = URL, md5: str = MD5) -> Dataset:
    """Reads spec.path: CIFAR-10's binary archive, a folder of its .bin files, or an .npz file.

    Without a path, the archive is downloaded to spec.cache if it is not there yet.

    Raises:
        ValueError: the download fails, the checksum is wrong, or the files are not CIFAR-10's.
    """
    path = Path(spec.path)
    if path.suffix == ".npz":
        return npz.load(spec)
    if spec.path and path.is_dir():
        files = _read_folder(path)
    else:
        if not spec.path:
            path = fetch(url, Path(spec.cache).expanduser() / url.rpartition("/")[2], md5)
        elif not path.is_file():
            raise ValueError(
                f"config.data.path = {spec.path!r} does not exist: give {url}, a folder of "
                "its .bin files, or an .npz file; or leave it empty, to download the archive"
            )
        check_md5(path, md5)
        files = _read_archive(path)
    missing = [name for name in TRAIN + TEST if name not in files]
    if missing:
        raise ValueError(f"{path} lacks CIFAR-10's {', '.join(missing)}")
    train, train_labels = _parse(path, files, TRAIN)
    test, test_labels = _parse(path, files, TEST)
    return Dataset(train, test, 256, train_labels, test_labels)


def _read_folder(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.rglob("*.bin")}


def _read_archive(path: Path) -> dict[str, bytes]:
    """The contents of the .bin files by name; nothing is written to disk."""
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        check_inside(path, [member.name for member in members])
        return {
            Path(member.name).name: file.read()
            for member in members
            if member.name.endswith(".bin") and (file := archive.extractfile(member))
        }


def _parse(path: Path, files: dict[str, bytes], names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 32, 32, 3] and labels [N] of the files `names`."""
    for name in names:
        if len(files[name]) % RECORD:
            raise ValueError(
                f"{path}: {name} has {len(files[name])} bytes, not a multiple of {RECORD}: it is "
                "cut short, or not the binary version; download it again"
            )
    records = np.frombuffer(b"".join(files[name] for name in names), np.uint8).reshape(-1, RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int32)
