"""The arguments of a command: the config, the run's folder, and the flags of some commands."""

import dataclasses
from pathlib import Path

from experiments.build import pipelines
from experiments.pipeline.pipeline import Pipeline
from models.config import Config


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of a command.

    Attributes:
        config: of the run, with the overrides of the command line.
        folder: the run's.
        checkpoint: mode import: the published file.
        topology: mode plan: a TPU slice, such as "v5e:2x4".
        format: mode export: the name of a published format.
        data: mode prepare: the folder, .zip or table of images.
    """

    config: Config
    folder: Path
    checkpoint: str | None = None
    topology: str | None = None
    format: str | None = None
    data: str | None = None

    def model(self, step: int | None = None) -> Pipeline:
        """The run's trained model."""
        return pipelines.trained(self.config, self.folder, step)
