"""Trains, samples and scores score-based models.

python -m experiments.main --config=configs/digits.py [--workdir=runs/digits] [--mode=train]
"""

import errno
import io
import logging
import os
import re
import sys
from pathlib import Path

import absl.logging
import jax
from absl import app, flags
from ml_collections import config_flags

import models
from experiments import build
from experiments.commands import detect, edit, evaluate, generate, import_checkpoint, plan, train
from experiments.evaluation import likelihood
from experiments.pipeline import cascade, guides, sample
from experiments.runs import hosts, model_card
from experiments.runs import workdir as workdirs
from experiments.studies import ablate, benchmark_solvers, exposure_bias
from experiments.training import state
from sde_lib.checks import check_name

DISK_FULL = os.strerror(errno.ENOSPC)
CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: FILE.py[:VARIANT].")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder (default: runs/FILE[-VARIANT]).")
MODE = flags.DEFINE_string(
    "mode",
    "train",
    "What to do: train, plan, sample, likelihood, evaluate, stats, edit, detect, "
    "benchmark_solvers, import, generate, exposure_bias or ablate.",
)
PROMPT = flags.DEFINE_string("prompt", None, "What to draw: short for --config.sampling.prompt.")
TOPOLOGY = flags.DEFINE_string("topology", None, "Mode plan: of a TPU slice, such as v5e:2x4.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Mode import: .pth of score_sde, .npz of EDM.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many, with --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0 on.")
PATIENCE = flags.DEFINE_integer("patience", 300, "Seconds to wait for the other processes.")


def plan_mode(config, _: Path) -> None:
    """Tells what training will need."""
    plan.run(config, TOPOLOGY.value)


def sample_mode(config, workdir: Path) -> None:
    """Draws config.sampling.n_samples samples of a trained model, and pictures of them."""
    for path in sample.save_pictures(config, *state.load(config, workdir), workdir):
        print(path)


def likelihood_mode(config, workdir: Path) -> None:
    """Scores the test set by a trained model."""
    model, params, step = state.load(config, workdir)
    bits = likelihood.bits_per_dim(config, model, params, train.load_data(config))
    print(f"{likelihood.name(config)} {bits}")
    model_card.update(workdir, step, {likelihood.name(config): str(bits)})


def import_mode(config, workdir: Path) -> None:
    """Makes a run of published weights."""
    if CHECKPOINT.value is None:
        raise ValueError("--mode=import needs --checkpoint=FILE.pth (score_sde) or FILE.npz (EDM)")
    import_checkpoint.run(config, workdir, Path(CHECKPOINT.value))


MODES = {
    "train": train.run,
    "plan": plan_mode,
    "sample": sample_mode,
    "likelihood": likelihood_mode,
    "evaluate": evaluate.run,
    "stats": evaluate.run_stats,
    "edit": edit.run,
    "detect": detect.run,
    "benchmark_solvers": benchmark_solvers.run,
    "import": import_mode,
    "generate": generate.run,
    "exposure_bias": exposure_bias.run,
    "ablate": ablate.run,
}


COMPILED = {  # kept from command to command; each unless the environment sets it, in capitals
    "jax_compilation_cache_dir": os.path.expanduser("~/.cache/score-sde-jax/xla"),
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}
STUDIES = ("exposure_bias", "ablate")  # which take solvers of their own
PLAIN = (*STUDIES, "edit", "detect", "benchmark_solvers", "import")  # which make no images larger


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise ValueError(f"unexpected arguments: {' '.join(argv[1:])}")
    file, variant = config_file()
    if not Path(file).is_file():
        shared = ("default.py", "published.py")
        known = sorted(str(p) for p in Path(file).parent.glob("*.py") if p.name not in shared)
        raise ValueError(f"there is no config {file!r}: choose one of {', '.join(known)}")
    check_name("--mode", MODE.value, MODES)
    config = CONFIG.value
    if PROMPT.value is not None:
        config.sampling.prompt = PROMPT.value
    # Only the training loop asks JAX about SIGTERM; it ends the other modes.
    jax.config.update("jax_enable_preemption_service", MODE.value == "train")
    hosts.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, PATIENCE.value)
    if MODE.value == "plan":
        plan.prepare(config, TOPOLOGY.value)
    if not hosts.is_first():
        sys.stdout = io.StringIO()
        logging.getLogger("experiments").setLevel(logging.WARNING)
    build.check(config)
    guides.check(config)
    cascade.check(config)
    if MODE.value not in STUDIES:
        guides.check_sampler(config)
    if config.data.autoencoder and MODE.value in (*STUDIES, "detect"):
        raise ValueError(f"--mode={MODE.value} is of images: leave config.data.autoencoder out")
    if models.is_classifier(config) and MODE.value not in ("train", "plan"):
        raise ValueError(f"{config.model.name!r} is a classifier, for --mode=train or plan alone")
    if models.is_autoencoder(config) and MODE.value not in ("train", "plan"):
        raise ValueError(
            "an autoencoder is for --mode=train or plan alone: give its folder as "
            "config.data.autoencoder to a score model, which then makes its latents"
        )
    if config.model.low_res_size and MODE.value in PLAIN:
        raise ValueError(
            f"config.model.low_res_size is {config.model.low_res_size}, but --mode={MODE.value} "
            "knows of no smaller images"
        )
    folder = "-".join([Path(file).stem, *filter(None, [variant])])
    workdir = Path(WORKDIR.value or f"runs/{folder}")
    if jax.process_count() > 1:
        hosts.check_alike(
            {"--mode": MODE.value, "--workdir": str(workdir)}
            | workdirs.flatten(config.to_dict(), "config.")
        )
        if MODE.value == "train":
            hosts.check_shared(workdir)
    MODES[MODE.value](config, workdir)


def config_file() -> tuple[str, str]:
    """The parts of --config: the file, and the variant or ""."""
    file, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return file, variant


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser; what it has to say about a wrong flag is the last line of its error."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, TypeError, ValueError) as error:
        cause: BaseException = error
        while cause.args and isinstance(cause.args[0], BaseException):
            cause = cause.args[0]
        lines = str(cause.args[0] if cause.args else cause).strip().splitlines()
        sys.exit("error: " + re.sub(r"^\w+Error: ", "", lines[-1].strip()))


def run() -> None:
    """The process's edge: a user's mistake ends in one message, not in a traceback."""
    flags.mark_flag_as_required("config")
    absl.logging.set_verbosity(absl.logging.ERROR)  # orbax would tell every step it takes
    logging.getLogger("experiments").setLevel(logging.INFO)
    for name, value in COMPILED.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    try:
        app.run(main, flags_parser=parse_flags)
    except KeyboardInterrupt:
        sys.stdout.flush()
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(1)  # XLA's threads, in the middle of compiling, would crash on the way out
    except (OSError, ValueError, FloatingPointError) as error:
        if DISK_FULL in str(error):  # an OSError, or what orbax makes of it
            error = "the disk is full; the checkpoint before is good: make room, run the same again"
        hosts.leave(f"error: {error}")


if __name__ == "__main__":
    run()
