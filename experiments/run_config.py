"""The config of a run, as a config file whose variant is the run's folder."""

from pathlib import Path

from configs.default import Config
from experiments.build import configs


def get_config(folder: str) -> Config:
    """The config that the folder's config.json holds."""
    return configs.load(Path(folder))
