"""The command line: flags to a request, with errors of one line.

`--workdir` alone is enough for a run that exists: its config.json becomes the config, and
--config.FIELD=VALUE goes on top.
"""

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from configs import default
from experiments.build import components, configs, migrate, sections
from experiments.commands.request import Request
from experiments.runs import folder as folders
from experiments.runs import hosts
from models.config import Config

FROM_RUN = Path(__file__).with_name("run_config.py")
"""A config file whose variant is the folder of a run."""
WITHOUT_RUN = ("train", "plan", "import", "stats")  # modes that need no trained model


def prepared(argv: Sequence[str], commands: Mapping[str, tuple[str, str, str]]) -> list[str]:
    """The arguments with --config=RUN'S CONFIG added, if only --workdir was given.

    Prints the help, or an error, and ends the process where that is what the arguments ask for.
    """
    if {"--help", "-h", "--helpfull", "--helpshort"} & set(argv):
        print(help_text(commands))
        sys.exit(0)
    given = [argument.partition("=") for argument in argv[1:]]
    for name, _, _ in given:
        old = name.removeprefix("--config.")
        if name.startswith("--config.") and migrate.new_name(old):
            sys.exit(f"error: config.{old} is now config.{migrate.new_name(old)}")
    names = [name for name, _, _ in given]
    if "--config" in names:
        return list(argv)
    folder = _value(argv, "--workdir")
    if folder is None:
        sys.exit("error: give --config=FILE.py[:VARIANT], or --workdir=FOLDER of a run")
    try:
        folders.read_config(Path(folder))
    except ValueError as error:
        sys.exit(f"error: {error}; or give --config=FILE.py[:VARIANT] to start a run there")
    return [argv[0], f"--config={FROM_RUN}:{folder}", *argv[1:]]


def parse(argv: Sequence[str]) -> list[str]:
    """absl's parser; a wrong flag ends the process with the last line of absl's error."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        cause: BaseException = error
        while cause.args and isinstance(cause.args[0], BaseException):
            cause = cause.args[0]
        lines = str(cause.args[0] if cause.args else cause).strip().splitlines()
        sys.exit("error: " + re.sub(r"^\w+Error: ", "", lines[-1].strip()))


def folder(config_flag: Any, workdir: str | None) -> Path:
    """The run's folder: --workdir, or runs/ and the config's name.

    Raises:
        ValueError: there is no such config file.
    """
    filename = config_flags.get_config_filename(flags.FLAGS[config_flag.name])
    file, _, variant = filename.partition(":")
    if not Path(file).is_file():
        shared = ("default.py", "published.py")
        known = sorted(str(p) for p in Path(file).parent.glob("*.py") if p.name not in shared)
        raise ValueError(f"there is no config {file!r}: choose one of {', '.join(known)}")
    return Path(workdir or f"runs/{'-'.join([Path(file).stem, *filter(None, [variant])])}")


def overrides(
    config_flag: Any, config: Config, prompts: Sequence[str] | None, labels: Sequence[int] | None
) -> set[str]:
    """The fields that the command line sets, with --prompt and --label put into the config.

    Options of a component that another one replaces are dropped from the config.
    """
    fields = set(config_flags.get_override_values(flags.FLAGS[config_flag.name]))
    if prompts is not None:
        config.sampling.prompt = "\n".join(prompts)
        fields.add("sampling.prompt")
    if labels is not None:
        config.sampling.labels = tuple(labels)
        fields.add("sampling.labels")
    sections.reset_options(config, components.CHOICES, fields)
    return fields


def request(
    mode: str,
    config: Config,
    folder: Path,
    overridden: set[str],
    checkpoint: str | None,
    topology: str | None,
) -> Request:
    """The arguments of the command.

    Raises:
        ValueError: a config, or overrides of one, that do not fit the run.
    """
    if mode not in WITHOUT_RUN and folders.has_run(folder):
        its = configs.load(folder)
        fixed = {name for name in overridden if sections.get(config, name) != _or_none(its, name)}
        configs.check_overrides(fixed, folder)
        configs.check_same(config, folder, configs.USE)
    return Request(config, folder, checkpoint, topology)


def check_processes(mode: str, folder: Path, config: Config) -> None:
    """Raises ValueError unless all processes were started alike and see the same folder."""
    if jax.process_count() == 1:
        return
    fields = folders.flatten(config.to_dict(), "config.")
    hosts.check_alike({"--mode": mode, "--workdir": str(folder)} | fields)
    if mode == "train":
        hosts.check_shared(folder)


def help_text(commands: Mapping[str, tuple[str, str, str]]) -> str:
    """The usage, the modes, the flags, and every field of the config with its default."""
    modes = "\n".join(f"  {name:<18}{about}" for name, (_, _, about) in commands.items())
    own = flags.FLAGS.get_key_flags_for_module("experiments.main") or []
    own = own or flags.FLAGS.get_key_flags_for_module("__main__")
    its_flags = "\n".join(f"  --{flag.name:<16}{flag.help}" for flag in own)
    return (
        "python -m experiments.main [--mode=train] --config=FILE.py[:VARIANT] [--workdir=FOLDER]\n"
        "python -m experiments.main --mode=MODE --workdir=FOLDER [--config.FIELD=VALUE ...]\n\n"
        f"modes:\n{modes}\n\nflags:\n{its_flags}\n\n"
        "fields of the config, --config.FIELD=VALUE, with their defaults (None: the component's\n"
        f"own; configs/ has the experiments):\n{config_help()}"
    )


def config_help() -> str:
    """Every field of configs/default.py, with its default and its comment."""
    sections_of, lines = {"config": "config"}, []
    for line in inspect.getsource(default.get_config).splitlines():
        made = re.match(r"\s+(\w+) = (\w+)\.(\w+) = Section\(\)", line)
        nested = re.match(r"\s+(\w+) = (\w+) = ", line)
        if made:
            sections_of[made[1]] = f"{sections_of[made[2]]}.{made[3]}"
            continue
        field = re.match(r"\s+(\w+)\.(\w+) = (.*?)(?:  # (.*))?$", line)
        if field and field[1] in sections_of and not nested:
            value = "None" if field[3].startswith("default(") else field[3]
            name = f"--{sections_of[field[1]]}.{field[2]}={value}"
            lines.append(f"  {name:<48}{field[4] or ''}".rstrip())
    return "\n".join(lines)


def _value(argv: Sequence[str], flag: str) -> str | None:
    """The value of a flag, given as --flag=value or --flag value."""
    for k, argument in enumerate(argv):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and k + 1 < len(argv):
            return argv[k + 1]
    return None


def _or_none(config: Config, field: str) -> Any:
    try:
        return sections.get(config, field)
    except KeyError:
        return None
