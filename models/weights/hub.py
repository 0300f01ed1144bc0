"""Folders of diffusers from the Hugging Face hub, by the name of their repository."""

import importlib
import re
from pathlib import Path
from typing import Any

FOLDERS = ("", "unet/", "transformer/", "vae/")
"""Folders of a repository that may hold weights which can be read here."""
WEIGHTS = ("diffusion_pytorch_model", "diffusion_pytorch_model-?????-of-?????")
JSON = ("config.json", "model_index.json", "scheduler_config.json", "*.index.json")


def is_name(path: str | Path) -> bool:
    """True for a path that does not exist and looks like the name of a repository, OWNER/NAME."""
    known = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(path)) is not None
    return known and not Path(path).exists() and not Path(path).parent.exists()


def download(name: str) -> Path:
    """The folder of a repository's files: configs, and weights as safetensors if there are any.

    Files that were downloaded before are not downloaded again, and need no network.

    Raises:
        ValueError: no package huggingface_hub, no network, or no such repository.
    """
    jsons = [f"{folder}{file}" for folder in (*FOLDERS, "scheduler/") for file in JSON]
    _snapshot(name, jsons)
    found = _snapshot(name, [f"{f}{w}.safetensors" for f in FOLDERS for w in WEIGHTS])
    bare = [folder for folder in FOLDERS if not any((found / folder).glob("*.safetensors"))]
    return _snapshot(name, [f"{folder}{w}.bin" for folder in bare for w in WEIGHTS])


def _snapshot(name: str, patterns: list[str]) -> Path:
    try:
        package: Any = importlib.import_module("huggingface_hub")
        errors: Any = importlib.import_module("huggingface_hub.utils")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"there is no file or folder {name}. If it is a repository of the Hugging Face hub, "
            f"this needs the package {error.name}: pip install -e '.[hub]'"
        ) from error
    try:
        return Path(package.snapshot_download(name, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise ValueError(
            f"the repository {name} of the Hugging Face hub is for those who were granted access: "
            "ask for it on its page, and log in with `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ValueError(
            f"there is no file or folder {name}, and no repository of that name on the Hugging "
            "Face hub that you may see: check its spelling"
        ) from error
    except OSError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"there is no file or folder {name}, and it could not be downloaded from the Hugging "
            f"Face hub: check the network, or give a folder ({reason})"
        ) from error
