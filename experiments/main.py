"""Trains, samples and scores score-based models.

python -m experiments.main --config=configs/digits.py [--workdir=runs/digits]
python -m experiments.main --mode=sample --workdir=runs/digits [--config.sampling.n_steps=50]
"""

import errno
import importlib
import io
import logging
import os
import sys

import absl.logging
import jax
from absl import app, flags
from ml_collections import config_flags

from experiments import command_line
from experiments.runs import hosts, interrupt
from sde_lib.checks import check_name

COMMANDS = {  # mode: (module of experiments.commands or .studies, function, description)
    "train": ("commands.train", "run", "train; continues where the last run stopped"),
    "plan": ("commands.plan", "run", "parameters, arithmetic and memory of training"),
    "sample": ("commands.sample", "run", "draw samples of a trained model"),
    "likelihood": ("commands.likelihood", "run", "bits/dim of the test set"),
    "evaluate": ("commands.evaluate", "run", "loss, bits/dim and sample quality of checkpoints"),
    "stats": ("commands.evaluate", "run_stats", "statistics that samples are compared with"),
    "edit": ("commands.edit", "run", "inpaint, colour, vary or interpolate test images"),
    "detect": ("commands.detect", "run", "detection of the model's samples: a ROC curve"),
    "import": ("commands.import_weights", "run", "make a run of published weights"),
    "generate": ("commands.generate", "run", "a set of samples for a discriminator"),
    "benchmark_solvers": ("studies.solvers", "run", "error of every sampler against its NFE"),
    "exposure_bias": ("studies.exposure_bias", "run", "drift of sampling from training inputs"),
    "ablate": ("studies.ablation", "run", "discriminator guidance and epsilon scaling compared"),
}
CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: FILE.py[:VARIANT].")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder (default: runs/FILE[-VARIANT]).")
MODE = flags.DEFINE_string("mode", "train", f"The command: {', '.join(COMMANDS)}.")
PROMPT = flags.DEFINE_multi_string("prompt", None, "Sets config.sampling.prompt; repeatable.")
LABEL = flags.DEFINE_multi_integer("label", None, "Sets config.sampling.labels; repeatable.")
TOPOLOGY = flags.DEFINE_string("topology", None, "Mode plan: a TPU slice, such as v5e:2x4.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Mode import: .pth of score_sde, .npz of EDM.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many, with --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0 on.")
PATIENCE = flags.DEFINE_integer("patience", 300, "Seconds to wait for the other processes.")
COMPILED = {  # kept from command to command, unless the environment sets it (in capitals)
    "jax_compilation_cache_dir": os.path.expanduser("~/.cache/score-sde-jax/xla"),
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}


def main(argv: list[str]) -> None:
    """Runs the command that the flags name."""
    if argv[1:]:
        raise ValueError(f"unexpected arguments: {' '.join(argv[1:])}")
    mode, config = MODE.value, CONFIG.value
    check_name("--mode", mode, COMMANDS)
    folder = command_line.folder(CONFIG, WORKDIR.value)
    overrides = command_line.overrides(CONFIG, config, PROMPT.value, LABEL.value)
    # Only the training loop asks JAX about SIGTERM; it ends the other modes.
    jax.config.update("jax_enable_preemption_service", mode == "train")
    hosts.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, PATIENCE.value)
    if mode == "plan":
        from experiments.commands import plan

        plan.prepare(config, TOPOLOGY.value)
    if not hosts.is_first():
        sys.stdout = io.StringIO()
        logging.getLogger("experiments").setLevel(logging.WARNING)
    command_line.check_processes(mode, folder, config)
    request = command_line.request(
        mode, config, folder, overrides, CHECKPOINT.value, TOPOLOGY.value
    )
    module, function, _ = COMMANDS[mode]
    getattr(importlib.import_module(f"experiments.{module}"), function)(request)


def run() -> None:
    """Starts the process; a user's mistake ends in one message, not in a traceback."""
    absl.logging.set_verbosity(absl.logging.ERROR)  # orbax would log every step it takes
    logging.getLogger("experiments").setLevel(logging.INFO)
    interrupt.listen()
    for name, value in COMPILED.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    arguments = command_line.prepared(sys.argv, COMMANDS)
    try:
        app.run(main, argv=arguments, flags_parser=command_line.parse)
    except KeyboardInterrupt:
        interrupt.leave()
    except (OSError, ValueError, FloatingPointError) as error:
        if os.strerror(errno.ENOSPC) in str(error):  # an OSError, or what orbax makes of it
            error = "the disk is full; the checkpoint before is good: make room, run the same again"
        hosts.leave(f"error: {error}")


if __name__ == "__main__":
    run()
