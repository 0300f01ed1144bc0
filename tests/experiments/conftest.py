"""Tiny trained runs, each trained once a session; every test gets a copy that it may change."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from configs import digits, points
from experiments.build import configs
from experiments.commands import train
from experiments.commands.request import Request


class Run(NamedTuple):
    """A run's folder, and a config that fits it."""

    config: Any
    folder: Path

    def request(self) -> Request:
        """The arguments of a command for this run."""
        return Request(self.config, self.folder)


def points_config():
    """An MLP of two moons: 20 steps without pictures and reports, coarse likelihoods."""
    config = points.get_config("moons")
    config.model.update(nf=8, num_res_blocks=1)
    config.optim.warmup = 0
    config.training.update(n_iters=20, batch_size=64, log_freq=10, eval_freq=20)
    config.training.update(snapshot_freq=1000, snapshot_freq_for_preemption=10)
    config.training.at_end = ()
    config.sampling.update(n_steps=25, n_samples=16, batch_size=16)
    config.eval.update(batch_size=2000, rtol=0.1, atol=0.1, num_samples=64)
    return config


def digits_config():
    """A U-Net of one level on digits and their classes: 4 steps without pictures."""
    config = digits.get_config()
    config.model.update(nf=8, ch_mult=(1,), attn_resolutions=(), num_res_blocks=0)
    config.model.update(class_conditional=True, label_dropout=0.1)
    config.optim.warmup = 0
    config.training.update(n_iters=4, batch_size=8, log_freq=1, eval_freq=4)
    config.training.update(snapshot_freq=1000, snapshot_freq_for_preemption=2)
    config.training.at_end = ()
    config.sampling.update(n_steps=25, n_samples=4, batch_size=4)
    config.eval.update(batch_size=99, rtol=0.1, atol=0.1, num_samples=20)
    return config


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
