"""The smallest training on image files, to be disturbed: in this process, or as one that is killed.

python tests/chaos.py RUN IMAGES trains slowly enough to be met at any step.
"""

import sys
import time
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from PIL import Image

import models
from configs import digits
from experiments.build.fields import configs
from experiments.commands import train
from experiments.commands.request import Request
from experiments.data import batches

N_ITERS, EVERY = 24, 6  # steps, and steps between checkpoints
FILE_SIZE = 100_000  # bytes, less than a checkpoint has


class Linear(nn.Module):
    """A network of one weight, beside parameters that make its checkpoints large."""

    @nn.compact
    def __call__(self, x, labels, train=False):
        weight = self.param("weight", nn.initializers.ones, ())
        ballast = self.param("ballast", nn.initializers.normal(), (200, 200))
        return weight * x + 0.01 * jnp.mean(ballast)


def config(images, batch_size=4):
    made = digits.get_config()
    made.model.name = "linear"
    made.optim.warmup = 0
    made.data.update(dataset="folder", path=str(images), test_fraction=0.2)
    made.data.cache = f"{images}-cache"  # not the one in the home folder
    made.training.update(n_iters=N_ITERS, batch_size=batch_size, log_freq=1, eval_freq=8)
    made.training.update(snapshot_freq_for_preemption=EVERY, snapshot_freq=1000, at_end=())
    made.training.sinks = ("jsonl",)
    made.eval.batch_size = 4
    return made


def images(folder, seed=0, n=40):
    """A folder of grey images of 8 x 8 pixels."""
    folder.mkdir()
    for k, pixels in enumerate(np.random.RandomState(seed).randint(0, 256, (n, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{k:02}.png")
    return folder


def run(folder, images):
    """Trains in a folder, or goes on there."""
    models.MODELS["linear"] = Linear
    train.run(Request(config(images), Path(folder)))


def has_begun(folder):
    return (Path(folder) / configs.folders.CONFIG).exists()


def main(folder, images):
    original = batches.batches

    def slow(*arguments):
        for batch in original(*arguments):
            time.sleep(0.03)
            yield batch

    batches.batches = slow
    run(folder, images)


if __name__ == "__main__":
    main(*sys.argv[1:])
