"""Trains, samples and scores score-based models.

python -m experiments.main --config=configs/digits.py [--workdir=runs/digits] [--mode=train]
"""

import errno
import logging
import sys
from pathlib import Path

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from experiments import build, data, likelihood, sample, train
from sde_lib.checks import check_name

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: FILE.py[:VARIANT].")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder (default: runs/FILE[-VARIANT]).")
MODE = flags.DEFINE_string("mode", "train", "What to do: train, sample or likelihood.")


def sample_mode(config, workdir: Path) -> None:
    """Draws config.sampling.n_samples samples of a trained model, and pictures of them."""
    for path in sample.save_pictures(config, *train.load(config, workdir), workdir):
        print(path)


def likelihood_mode(config, workdir: Path) -> None:
    """Scores the test set by a trained model."""
    model, params, _ = train.load(config, workdir)
    bits = likelihood.bits_per_dim(config, model, params, data.load(config))
    print(f"test bits/dim {bits}")


MODES = {"train": train.run, "sample": sample_mode, "likelihood": likelihood_mode}


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    config = CONFIG.value
    check_name("--mode", MODE.value, MODES)
    build.check(config)
    MODES[MODE.value](config, Path(WORKDIR.value or default_workdir()))


def default_workdir() -> str:
    """runs/digits for configs/digits.py, runs/digits-ve for configs/digits.py:ve."""
    file, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return str(Path("runs", "-".join([Path(file).stem, *filter(None, [variant])])))


def run() -> None:
    """The process's edge: a user's mistake ends in one message, not in a traceback."""
    flags.mark_flag_as_required("config")
    absl.logging.set_verbosity(absl.logging.WARNING)  # orbax would tell every step it takes
    logging.getLogger("experiments").setLevel(logging.INFO)
    try:
        app.run(main)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(f"error: the disk is full ({error.filename}); make room and run the command again")


if __name__ == "__main__":
    run()
