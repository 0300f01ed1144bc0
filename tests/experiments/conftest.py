"""Tiny trained runs, each trained once a session; every test gets a copy that it may change."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tiny_configs import digits_config, points_config

from experiments.build.fields import configs
from experiments.commands import train
from experiments.commands.request import Request


class Run(NamedTuple):
    """A run's folder, and a config that fits it."""

    config: Any
    folder: Path

    def request(self) -> Request:
        """The arguments of a command for this run."""
        return Request(self.config, self.folder)


@pytest.fixture(scope="session")
def trained_points(tmp_path_factory):
    return _trained(points_config(), tmp_path_factory.mktemp("points"))


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory):
    return _trained(digits_config(), tmp_path_factory.mktemp("digits"))


@pytest.fixture
def points_run(trained_points, tmp_path):
    """A copy of the trained run of points, in tmp_path / "points"."""
    return _copy(trained_points, tmp_path / "points")


@pytest.fixture
def digits_run(trained_digits, tmp_path):
    """A copy of the trained run of digits, in tmp_path / "digits"."""
    return _copy(trained_digits, tmp_path / "digits")


def _trained(config, folder):
    train.run(Request(config, folder))
    return folder


def _copy(trained, folder):
    shutil.copytree(trained, folder)
    return Run(configs.load(folder), folder)
