"""Random trainings with random small faults: each ends as the one that nothing has disturbed."""

import errno
import logging
import random
import re
import resource
import time
from contextlib import closing, contextmanager

import chaos
import jax
import numpy as np
import processes
import pytest
from chaos import EVERY, N_ITERS

from experiments.build import restored
from experiments.build.components import optimization
from experiments.build.fields import configs
from experiments.data import batches
from experiments.runs import charts, files
from experiments.runs import folder as folders
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import abstract_state

COUNT = 200
REFUSED = (ValueError, OSError, FloatingPointError)  # one line for the user, each


def metrics(folder):
    return files.read_lines(folder / "metrics.jsonl")


def last_step(folder):
    return max((line["step"] for line in metrics(folder)), default=0)


def steps(folder):
    """The steps that are saved, in order."""
    names = [path.name for path in (folder / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def newest(folder):
    return max(steps(folder), default=0)


def inode(path):
    """The file's number, which changes when a run that continues has replaced the file."""
    return path.stat().st_ino if path.exists() else None


def state(folder):
    config = configs.load(folder)
    like = abstract_state(restored.skeleton(config), config.seed, optimization.mesh(config))
    with closing(Checkpoints(folder, read_only=True)) as checkpoints:
        return checkpoints.restore(like)


class Disturbed:
    """A training that is tried again and again.

    Attributes:
        folder: the run's.
        images: its data, which move.
        chance: decides on everything.
    """

    def __init__(self, parent, seed, caplog):
        self.parent, self.folder = parent, parent / "run"
        self.images = chaos.images(parent / "images")
        self.chance, self.caplog = random.Random(seed), caplog

    def train(self):
        """Goes on from the newest checkpoint, to the end or to an error of one line."""
        before, ended_by = newest(self.folder), None
        self.caplog.clear()
        try:
            chaos.run(self.folder, self.images)
        except REFUSED as error:
            ended_by = error
        found = re.findall(r"parameters, from step (\d+)", self.caplog.text)
        assert found == [str(before)] or (ended_by and not found)
        assert "Traceback" not in f"{self.caplog.text} {ended_by}"
        return ended_by

    @contextmanager
    def at_step(self, act):
        """Calls act() when a random batch is read, if the training comes that far."""
        original, at = batches.batches, self.chance.randint(1, N_ITERS)

        def disturbed(*arguments):
            start = arguments[3]
            for k, batch in enumerate(original(*arguments), start + 1):
                if k == at:
                    act()
                yield batch

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "batches", disturbed)
            yield


def killed(run):
    log, at = run.folder / "metrics.jsonl", run.chance.randint(newest(run.folder), N_ITERS)
    before = inode(log)
    process = processes.start(1, processes.ROOT / "tests/chaos.py", run.folder, run.images)
    while process.poll() is None and (inode(log) == before or last_step(run.folder) < at):
        time.sleep(0.01)
    process.kill()
    _, errors = process.communicate()
    assert "Traceback" not in errors
    left = list((run.folder / "checkpoints").glob("*.orbax*"))
    # One interval, and a second one while the write that ends the first is under way.
    assert last_step(run.folder) - newest(run.folder) <= (2 if left else 1) * EVERY


def read_error(run):
    def fail():
        raise OSError(errno.EIO, "Input/output error")

    with run.at_step(fail):
        run.train()
    assert newest(run.folder) == last_step(run.folder)  # nothing is lost


def vanished_file(run):
    """Before the start, which is refused, or while it trains, which may need it no more."""
    path = run.chance.choice(sorted(run.images.glob("*.png")))
    aside = run.parent / path.name
    if run.chance.random() < 0.5:
        path.rename(aside)
        before = newest(run.folder)
        if chaos.has_begun(run.folder):
            assert isinstance(run.train(), ValueError)
            assert newest(run.folder) == before
    else:
        with run.at_step(lambda: path.rename(aside)):
            run.train()
        assert newest(run.folder) == last_step(run.folder)
    if aside.exists():
        aside.rename(path)


def full_disk(run):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = newest(run.folder)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (chaos.FILE_SIZE, limits[1]))

    try:
        with run.at_step(fill):
            error = run.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert newest(run.folder) >= before
    assert error is None or "could not save step" in str(error)


def truncated_checkpoint(run):
    """The newest, if there is one before: the run goes on from that."""
    if len(steps(run.folder)) > 1:
        saved = run.folder / "checkpoints" / str(newest(run.folder))
        for path in saved.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        run.caplog.clear()
        before = steps(run.folder)[-2]
        chaos.run(run.folder, run.images)
        assert f"parameters, from step {before}" in run.caplog.text


def second_process(run):
    before = newest(run.folder)
    with folders.locked(run.folder):
        error = run.train()
    assert re.search(r"another command is training .* it is process \d+ on ", str(error))
    assert newest(run.folder) == before


def moved_data(run):
    """Others in their place are refused."""
    elsewhere = run.parent / f"images-{run.chance.random()}"
    run.images.rename(elsewhere)
    if chaos.has_begun(run.folder):
        chaos.images(run.images, seed=1)
        assert "are not those that the run" in str(run.train())
    run.images = elsewhere


FAULTS = (
    *(killed, read_error, vanished_file, full_disk),
    *(truncated_checkpoint, second_process, moved_data),
)


@pytest.fixture(autouse=True, scope="module")
def no_picture():
    """The figure of the loss takes a second to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "save_loss_curve", lambda path, *_: path)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    chaos.run(folder / "run", chaos.images(folder / "images"))
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(COUNT))
def test_a_disturbed_training_ends_as_the_undisturbed_one(whole, tmp_path, seed, caplog):
    caplog.set_level(logging.INFO, "experiments")
    run = Disturbed(tmp_path, seed, caplog)
    for fault in run.chance.choices(FAULTS, k=run.chance.randint(1, 3)):
        fault(run)
    assert run.train() is None
    assert newest(run.folder) == N_ITERS
    jax.tree.map(np.testing.assert_array_equal, state(run.folder), state(whole))
    assert metrics(run.folder) == metrics(whole)
    assert not list(run.folder.glob("*.part"))
