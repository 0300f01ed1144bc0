"""Runs that are killed again and again."""

import os
import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.build import restored
from experiments.build.components import optimization
from experiments.build.fields import configs
from experiments.runs import files
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import abstract_state

ROOT = Path(__file__).parents[2]
EVERY = 60  # steps between checkpoints
COMMAND = (
    *(sys.executable, "-m", "experiments.main", "--config=configs/points.py:moons"),
    "--config.model.nf=32",
    "--config.training.log_freq=7",
    "--config.training.eval_freq=25",
    f"--config.training.snapshot_freq_for_preemption={EVERY}",
    "--config.training.at_end=()",
    "--config.eval.batch_size=500",
)


def start(folder, n_iters):
    return subprocess.Popen(
        [*COMMAND, f"--config.training.n_iters={n_iters}", f"--workdir={folder}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder, n_iters):
    process = start(folder, n_iters)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def metrics(folder):
    return files.read_lines(folder / "metrics.jsonl")


def last_step(folder):
    return max([0, *(line["step"] for line in metrics(folder))])


def inode(path):
    """The file's number, which changes when a run that continues has replaced the file."""
    return path.stat().st_ino if path.exists() else None


def saved(folder):
    """The steps of the checkpoints, and the names of other files beside them."""
    names = {path.name for path in (folder / "checkpoints").glob("*")}
    steps = {name for name in names if name.isdigit()}
    return sorted(map(int, steps)), names - steps


def states(folder):
    """All states that were saved, by step."""
    config = configs.load(folder)
    like = abstract_state(restored.skeleton(config), config.seed, optimization.mesh(config))
    with closing(Checkpoints(folder, read_only=True)) as checkpoints:
        return {step: checkpoints.restore(like, step) for step in checkpoints.steps()}


@pytest.mark.slow
def test_a_run_killed_20_times_is_the_uninterrupted_one(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    moments = random.Random(0)
    log = killed / "metrics.jsonl"
    newest = kills_in_writes = took = 0
    for number in range(20):
        newest_before, old = newest, inode(log)
        began = time.monotonic()
        process = start(killed, 10**6)
        if starting := number % 5 == 4:
            time.sleep(moments.uniform(0, 4))
        else:
            while inode(log) == old or last_step(killed) <= newest:
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.01)
            took = time.monotonic() - began
            time.sleep(moments.uniform(0, 1.5))
        process.kill()
        process.communicate()

        steps, left = saved(killed)
        newest, logged = max(steps, default=0), last_step(killed)
        print(number, starting, newest_before, logged, newest, logged - newest, left, took)
        assert newest >= newest_before
        if not starting:
            # One interval, and a second one while the write that ends the first is under way.
            assert logged - newest <= (2 if left else 1) * EVERY
            kills_in_writes += bool(left)
    assert kills_in_writes > 0

    n_iters = newest + 2 * EVERY + 1
    finish(killed, n_iters)
    finish(whole, n_iters)
    assert saved(killed) == saved(whole) == ([newest + EVERY, newest + 2 * EVERY, n_iters], set())
    jax.tree.map(np.testing.assert_array_equal, states(killed), states(whole))
    assert metrics(killed) == metrics(whole)
    assert last_step(whole) == n_iters
    assert not list(killed.glob("*.part"))
