"""Trains, samples and scores score-based models.

python -m experiments.main --config=configs/digits.py [--workdir=runs/digits]
python -m experiments.main --mode=sample --workdir=runs/digits [--config.sampling.n_steps=50]
"""

import faulthandler
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial

import absl.flags
import absl.logging
import jax

from experiments import command_line, edge
from experiments.runs import hosts
from experiments.runs.long import interrupt

COMMANDS = {  # mode: (module of experiments.commands or .studies, function, description)
    "train": ("commands.train", "run", "train a model; continue where the last run stopped"),
    "plan": ("commands.plan", "run", "print the parameters, FLOPs and memory of training"),
    "prepare": ("commands.prepare", "run", "make a data set of image files, with a report"),
    "configs": ("commands.usage.configs", "run", "list the configs and their variants"),
    "inspect": ("studies.inspect_data", "run", "measure the data; advise the numbers of the noise"),
    "sample": ("commands.sample", "run", "draw samples of a trained model"),
    "likelihood": ("commands.likelihood", "run", "compute bits/dim of the test set"),
    "evaluate": ("commands.evaluate", "run", "measure loss, bits/dim and quality of samples"),
    "stats": (
        "commands.evaluate",
        "run_stats",
        "compute statistics that samples are compared with",
    ),
    "edit": ("commands.edit", "run", "inpaint, extend, enlarge, colour or vary images"),
    "serve": ("commands.page.serve", "run", "show a page that draws and edits images"),
    "detect": ("commands.detect", "run", "tell samples from real images: a ROC curve"),
    "import": ("commands.import_weights", "run", "make a run of published weights"),
    "export": ("commands.export", "run", "write a run's weights for other programs"),
    "generate": ("commands.generate", "run", "draw a set of samples for a discriminator"),
    "benchmark_solvers": ("studies.solvers", "run", "measure every sampler's error against NFE"),
    "exposure_bias": ("studies.exposure_bias", "run", "measure the drift from training inputs"),
    "study": ("studies.registry", "run", "run the study that config.study.name names"),
    "ablate": ("studies.ablation", "run", "compare discriminator guidance, epsilon scaling"),
}
COMPILED = {  # kept from command to command, unless the environment sets it (in capitals)
    "jax_compilation_cache_dir": os.path.expanduser("~/.cache/score-sde-jax/xla"),
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}


def main(argv: Sequence[str]) -> None:
    """Runs the command that the arguments name.

    Raises:
        ValueError: a mistake in the arguments, the config or the data.
        OSError: a file that cannot be read or written.
        FloatingPointError: training, or a sample, is not finite.
    """
    arguments = command_line.parse(argv, {mode: about for mode, (*_, about) in COMMANDS.items()})
    # Only the training loop asks JAX about SIGTERM; it ends the other modes.
    jax.config.update("jax_enable_preemption_service", arguments.mode == "train")
    hosts.join(*arguments.processes)
    if arguments.mode == "plan":
        from experiments.commands import plan

        plan.prepare(arguments.config, arguments.topology)
    if not hosts.is_first():
        sys.stdout = io.StringIO()
        logging.getLogger("experiments").setLevel(logging.WARNING)
    command_line.check_processes(arguments)
    request = command_line.request(arguments)
    module, function, _ = COMMANDS[arguments.mode]
    getattr(importlib.import_module(f"experiments.{module}"), function)(request)


def run() -> None:
    """Starts the process; whatever ends it is told in one message, without a traceback."""
    faulthandler.enable()
    absl.flags.FLAGS.mark_as_parsed()  # else absl warns of messages before that
    absl.logging.use_absl_handler()
    absl.logging.set_verbosity(absl.logging.ERROR)  # orbax would log every step it takes
    logging.getLogger("experiments").setLevel(logging.INFO)
    interrupt.listen()
    for name, value in COMPILED.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    with edge.guard(partial(command_line.named_folder, sys.argv)):
        main(sys.argv)


if __name__ == "__main__":
    run()
