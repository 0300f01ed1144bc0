"""Published models: their configs, and their weights in that config.

A config field is given, in order of precedence, by the user, by the file, by the card of the model
(what is known of it beside its file), and by what is usual in its format.
"""

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from configs import default
from experiments.build.fields import sections
from experiments.runs import files
from experiments.runs import folder as folders
from models import published
from models.config import Config
from models.published import Card, Format, Found, Skeleton, base
from models.published.base import Arrays
from models.published.diffusers.folders import SUFFIXES
from models.weights import hub

RECORD = folders.PUBLISHED


@dataclasses.dataclass(frozen=True)
class Published:
    """A published model that was recognised.

    Attributes:
        path: of its file or folder.
        form: its format.
        found: what the format found in it.
        card: what is known of it beside its file; None: nothing.
    """

    path: Path
    form: Format
    found: Found
    card: Card | None

    def config(self, otherwise: Config | None = None) -> Config:
        """The config of the model.

        Args:
            otherwise: the config if neither the file nor a card says what the network is.

        Raises:
            ValueError: nothing says what the network is.
        """
        fields = self.card.fields if self.card else {}
        base = self.card.config if self.card else ""
        if not (base or self.found.fields):
            if otherwise is not None:
                return otherwise
            raise ValueError(
                f"{self.path} is {self.form.title}, which does not say what its network is: give "
                "--config=FILE.py:VARIANT, such as configs/cifar10.py:ve_ncsnpp_continuous"
            )
        if base:
            module, variant = base.split(":")
            config = importlib.import_module(f"configs.{module}").get_config(variant)
        else:
            config = default.get_config()
        with config.unlocked(), config.ignore_type():
            for name, value in (self.found.assumed | fields | self.found.fields).items():
                section, _, last = name.rpartition(".")
                sections.get(config, section)[last] = value
        return config

    def record(self) -> dict[str, Any]:
        """The model's source, license and published figure, for the record in its run's folder."""
        card = self.card or Card((self.path.name,), self.form.title, "", "not stated")
        return {
            "format": self.form.name,
            "file": self.path.name,
            "model": card.model,
            "source": card.source,
            "license": card.license,
            "commercial": card.commercial,
            "figure": card.figure,
        }

    def assumed(self, config: Config) -> dict[str, Any]:
        """The fields of the config that are assumed: neither the file nor a card tells them."""
        told = self.found.fields | (self.card.fields if self.card else {})
        return {
            name: value
            for name, value in self.found.assumed.items()
            if name not in told and sections.get(config, name) == value
        }

    def params(self, config: Config, its_shape: tuple[int, ...] | None = None) -> Any:
        """The averaged weights as parameters of models.create(config).

        `its_shape` is that of the network's input; None: as config.data has it.
        """
        return published.params(self.form, self.found.arrays, config, its_shape)

    def convert(self, bare: Skeleton, arrays: Arrays) -> Iterator[np.ndarray]:
        """The parameters of a network from tensors, one by one, in its order."""
        return base.convert(self.form.clean(arrays), self.form.table(bare), bare)


def is_published(path: Path) -> bool:
    """True for a file, a folder with published weights, or a name on the hub; False for a run.

    A folder in runs/ is a run also where it is missing, not a name on the hub.
    """
    if not path.is_dir():
        return path.is_file() or (path.parent != folders.RUNS and hub.is_name(path))
    if (path / "model_index.json").exists():
        return True
    if folders.has_run(path):
        return "_class_name" in files.read_json(path / folders.CONFIG)
    return any(found.suffix in SUFFIXES for found in path.iterdir())


def open_(source: str | Path) -> Published:
    """The published model in a file or folder.

    Raises:
        ValueError: it cannot be read, or its format is not known.
        OSError: there is no such file.
    """
    read = published.read(source)
    form, found = published.identify(read)
    return Published(read.path, form, found, found.card or published.card(form, read))
