import sys
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest

from models import published
from models.weights import hub

FILES = (
    *("config.json", "model_index.json", "README.md", "diffusion_pytorch_model.bin"),
    *("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    *("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"),
    "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
    *("vae/diffusion_pytorch_model.bin", "text_encoder/model.safetensors", "script.py"),
    "scheduler/scheduler_config.json",
)


class GatedRepoError(OSError):
    pass


class RepositoryNotFoundError(OSError):
    pass


class HFValidationError(ValueError):
    pass


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A stand-in for the package, with FILES in every repository; a list of errors to raise."""
    raised: list[Exception] = []

    def snapshot_download(name, allow_patterns):
        for error in raised:
            raise error
        for file in FILES:
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                (tmp_path / file).parent.mkdir(exist_ok=True)
                (tmp_path / file).touch()
        return str(tmp_path)

    package, utils = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.utils")
    package.snapshot_download = snapshot_download
    for kind in (GatedRepoError, RepositoryNotFoundError, HFValidationError):
        setattr(utils, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", utils)
    return raised


def test_safetensors_are_downloaded_where_there_are_any_and_nothing_else(fake):
    folder = hub.download("google/ddpm-cifar10-32")
    found = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
    assert found == {
        *("config.json", "model_index.json", "diffusion_pytorch_model.bin", "unet/config.json"),
        *("unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"),
        "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
    }


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError(), "log in with"),
        (RepositoryNotFoundError(), "no repository of that name"),
        (HFValidationError(), "no repository of that name"),
        (FileNotFoundError("Name or service not known\nmore"), r"check the network.*not known\)"),
    ],
)
def test_errors_say_what_is_missing(fake, error, message):
    fake.append(error)
    with pytest.raises(ValueError, match=message):
        published.read("no/name")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"needs the package huggingface_hub.*\[hub\]"):
        published.read("google/ddpm-cifar10-32")


def test_names_are_told_from_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert hub.is_name("google/ddpm-cifar10-32")
    for path in ("runs/model.pth", "model.pth", "/a/b", "../a", "a/b/c", "./a", "~/a"):
        assert not hub.is_name(path)
