"""Samples and edits for a page: each is what a command makes with the same config fields.

A page sends config fields by their full names, such as {"sampling.n_steps": 20}. So its results are
those of the command line, and `command` says which command that is.
"""

import dataclasses
import hashlib
import io
import json
import shlex
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.build import pipelines
from experiments.build.components import sampling
from experiments.pipeline import draw, edit, show
from experiments.pipeline.edit.images import check_model
from experiments.pipeline.edit.tasks import TASKS
from experiments.pipeline.pipeline import Pipeline
from experiments.runs import devices, pictures
from models.config import Config

Fields = dict[str, Any]
"""Config fields by their full names."""
AT_ONCE = 4  # samples between two reports of progress
KEPT = 8  # settings whose compiled programs are kept
GIVEN = ("original", "given")  # columns of an edit that are no results
NO_PROGRAM = ("seed", "sampling.n_samples", "edit.")  # fields that change no part of a model
TASKS_OF_ONE = tuple(name for name in TASKS if name not in ("interpolate", "impute"))
"""Edits of one image."""


class Studio:
    """A trained model of images, as a page uses it.

    Attributes:
        model: as the run's config says.
        folder: a temporary folder of the results.
    """

    def __init__(self, config: Config, run: Path):
        """Loads the model of a run. Raises ValueError for one of other data than images."""
        self.model, self._config, self._run = pipelines.trained(config, run), config, run
        check_model(self.model)
        self._temporary = tempfile.TemporaryDirectory(prefix="score-sde-jax-")  # removed at the end
        self.folder = Path(self._temporary.name)
        self._n_files = 0
        self._models = lru_cache(KEPT)(self._model)

    def asked(self, fields: Fields) -> tuple[Pipeline, Config]:
        """The model and the config with these fields.

        Raises:
            ValueError: fields that the model cannot have.
        """
        config = self._config_of(fields)
        others = {name: value for name, value in fields.items() if not name.startswith(NO_PROGRAM)}
        model = self._models(json.dumps(others, sort_keys=True))
        return model.replace(seed=config.seed), config

    def _config_of(self, fields: Fields) -> Config:
        return pipelines.with_overrides(self._config.copy_and_resolve_references(), fields)

    def _model(self, fields: str) -> Pipeline:
        return pipelines.as_config(self.model, self._config_of(json.loads(fields)), self._run)

    def draw(self, fields: Fields) -> Iterator[list[Path]]:
        """Draws config.sampling.n_samples; yields the files of those that are done."""
        model, config = self.asked(fields)
        n, files = config.sampling.n_samples, []
        size = min(n, AT_ONCE)
        batch = draw.make_draw(model, size)
        for first in range(0, n, size):
            x = devices.fetch(batch(first).x)[: n - first]
            draw.check_finite(x)
            files += self._saved(model, model.to_images(x), fields, first)
            yield files

    def way(self, fields: Fields) -> list[Path]:
        """The first sample on its way from noise to an image.

        Mode sample draws the same in the first row of its picture of paths.
        """
        model, _ = self.asked(fields)
        return self._saved(
            model, model.to_images(draw.draw_paths(model, 1, show.N_FRAMES)[:, 0]), fields
        )

    def edit(self, fields: Fields) -> Iterator[list[Path]]:
        """Edits the image file config.edit.images; yields the files of results that are done.

        Raises:
            ValueError: an edit that does not go with the image, the mask or the model.
        """
        model, config = self.asked(fields)
        options, fit, files = sampling.edit(config), sampling.fit(config), []
        for k in range(options.n_results if "n_results" in TASKS[options.task].options else 1):
            part = dataclasses.replace(options, n_results=1, first_result=k)
            columns = edit.edit(model, [config.edit.images], part, fit=fit)
            made = [column[0] for title, column in columns.items() if title not in GIVEN]
            files = files + self._saved(model, made, fields, k)
            yield files

    def kept_file(self, content: bytes, suffix: str = ".png") -> Path:
        """The file of an image or a mask in the run's samples, for a command to name it later."""
        digest = hashlib.blake2b(content, digest_size=6).hexdigest()
        path = self._run / "samples" / "page" / f"{digest}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def mask_file(self, painted: np.ndarray) -> Path:
        """The file of a mask [H, W], True where results are made."""
        content = io.BytesIO()
        Image.fromarray(painted).save(content, "PNG")
        return self.kept_file(content.getvalue())

    def _saved(self, model: Pipeline, made: Any, fields: Fields, first: int = 0) -> list[Path]:
        """PNG files of images, which hold the fields that made them."""
        files = []
        for k, image in enumerate(made):
            about = pictures.provenance(**show.settings(model, fields=fields, index=first + k))
            files.append(self._next_file())
            pictures.save_image(files[-1], pictures.to_picture(image), about)
        return files

    def _next_file(self) -> Path:
        self._n_files += 1
        return self.folder / f"{self._n_files:05d}.png"

    def command(self, mode: str, fields: Fields) -> str:
        """The command that makes the same."""
        flags = [f"--config.{name}={value}" for name, value in fields.items()]
        parts = ["python", "-m", "experiments.main", f"--mode={mode}"]
        return shlex.join([*parts, f"--workdir={self._run}", *flags])


def fields_of(path: Path) -> Fields:
    """The fields that made a picture of a page.

    Raises:
        ValueError: a picture of another origin.
    """
    about = pictures.read_provenance(path)
    if not isinstance(about.get("fields"), dict):
        raise ValueError(f"{path.name} is no picture of this page: it holds no settings")
    return about["fields"]
