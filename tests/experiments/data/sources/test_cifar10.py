import hashlib
import io
import tarfile

import numpy as np
import pytest

from experiments.data.dataset import DataSpec
from experiments.data.sources import cifar10

NAMES = cifar10.TRAIN + cifar10.TEST
RANDOM = np.random.RandomState(0)
LABELS = RANDOM.randint(10, size=(6, 4)).astype(np.uint8)
IMAGES = RANDOM.randint(256, size=(6, 4, 32, 32, 3)).astype(np.uint8)
PLANES = IMAGES.transpose(0, 1, 4, 2, 3).reshape(6, 4, -1)
FILES = {
    name: np.concatenate([labels[:, None], planes], axis=1).tobytes()
    for name, labels, planes in zip(NAMES, LABELS, PLANES, strict=True)
}


def archive(path, files: dict[str, bytes]) -> str:
    """Writes the archive. Returns its checksum."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def spec(path="", **more):
    return DataSpec("cifar10", (32, 32, 3), str(path), **more)


def check(dataset):
    np.testing.assert_array_equal(dataset.train, IMAGES[:5].reshape(20, 32, 32, 3))
    np.testing.assert_array_equal(dataset.train_labels, LABELS[:5].reshape(20))
    np.testing.assert_array_equal(dataset.test, IMAGES[5])
    np.testing.assert_array_equal(dataset.test_labels, LABELS[5])
    assert dataset.train_labels.dtype == np.int32


def test_the_archive_is_read_from_a_path_from_the_cache_and_from_its_folder(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    md5 = archive(path, {f"cifar-10-batches-bin/{name}": FILES[name] for name in NAMES})
    check(cifar10.load(spec(path), md5=md5))
    cached = spec(cache=str(tmp_path))
    check(cifar10.load(cached, "http://127.0.0.1:9/cifar.tar.gz", md5))

    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    check(cifar10.load(spec(tmp_path)))
    (tmp_path / NAMES[2]).write_bytes(FILES[NAMES[2]][:-1])
    with pytest.raises(ValueError, match=r"3\.bin has 12291 bytes, not a multiple of 3073"):
        cifar10.load(spec(tmp_path))
    (tmp_path / NAMES[2]).unlink()
    with pytest.raises(ValueError, match=r"lacks CIFAR-10's data_batch_3\.bin"):
        cifar10.load(spec(tmp_path))


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    md5 = archive(path, FILES)
    with pytest.raises(ValueError, match=f"MD5 sum is {md5}, expected {cifar10.MD5}"):
        cifar10.load(spec(path))


def test_an_archive_with_a_member_outside_of_it_is_refused(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    md5 = archive(path, FILES | {"../x": b""})
    with pytest.raises(ValueError, match=r"its member '\.\./x' leads out"):
        cifar10.load(spec(path), md5=md5)


def test_a_missing_path_is_refused_with_the_files_that_are_read():
    with pytest.raises(ValueError, match=r"does not exist: give .*cifar-10-binary\.tar\.gz"):
        cifar10.load(spec("nowhere"))


def test_an_npz_file_is_read(tmp_path):
    path = tmp_path / "cifar.npz"
    np.savez(path, train=IMAGES[0], test=IMAGES[1])
    dataset = cifar10.load(spec(path))
    np.testing.assert_array_equal(dataset.train, IMAGES[0])
    np.testing.assert_array_equal(dataset.test, IMAGES[1])
