"""The command line: arguments to a request, with errors of one line.

`--workdir` alone is enough for a run that exists: its config.json becomes the config, and
--config.FIELD=VALUE goes on top.
"""

import ast
import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from configs import default
from experiments import config_file
from experiments.build import published
from experiments.build.fields import choices, configs, known_fields, sections
from experiments.commands.request import Request
from experiments.commands.usage import help as usage
from experiments.runs import files, hosts
from experiments.runs import folder as folders
from models.config import Config
from sde_lib.checks import check_name

WITHOUT_RUN = (
    "train",
    "plan",
    "import",
    "stats",
    "inspect",
    "prepare",
    "configs",
)  # modes that need no trained model
WITHOUT_CONFIG = ("study", "configs")  # modes that need neither a config nor a run
FIELD = re.compile(r"--?(?:no)?config\.([^=]*)=?(.*)")  # an argument that sets a field
HELP = {"--help", "-h", "--helpfull", "--helpshort"}
FLAGS = {  # name: (function that defines it, default, description)
    "config": (flags.DEFINE_string, None, "The experiment: FILE.py[:VARIANT]."),
    "workdir": (flags.DEFINE_string, None, "The run's folder (default: runs/FILE[-VARIANT])."),
    "mode": (flags.DEFINE_string, "train", "The command, one of the modes above."),
    "prompt": (flags.DEFINE_multi_string, None, "Sets config.sampling.prompt; repeatable."),
    "label": (flags.DEFINE_multi_integer, None, "Sets config.sampling.labels; repeatable."),
    "topology": (flags.DEFINE_string, None, "Mode plan: a TPU slice, such as v5e:2x4."),
    "checkpoint": (flags.DEFINE_string, None, "Mode import: a published file, folder or hub name."),
    "data": (flags.DEFINE_string, None, "Mode prepare: a folder or .zip of images, or a table."),
    "output": (flags.DEFINE_string, None, "Mode prepare: the folder to make (DATA-prepared)."),
    "format": (flags.DEFINE_string, None, "Mode export: safetensors, diffusers, score_sde, ..."),
    "coordinator": (flags.DEFINE_string, None, "HOST:PORT of process 0 of several."),
    "num_processes": (flags.DEFINE_integer, None, "Number of processes, with --coordinator."),
    "process_id": (flags.DEFINE_integer, None, "Index of this process, from 0."),
    "patience": (flags.DEFINE_integer, 300, "Seconds to wait for the other processes."),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A command line.

    Attributes:
        mode: the command.
        config: of the experiment or the run, with the overrides.
        folder: the run's.
        overridden: full names of the config fields that were given.
        checkpoint: mode import: the published file.
        topology: mode plan: a TPU slice.
        format: mode export: the name of a published format.
        data: mode prepare: the images.
        processes: the arguments of hosts.join.
    """

    mode: str
    config: Config
    folder: Path
    overridden: frozenset[str]
    checkpoint: str | None
    topology: str | None
    format: str | None
    data: str | None
    processes: tuple[str | None, int | None, int | None, int]


def parse(argv: Sequence[str], modes: Mapping[str, str]) -> Arguments:
    """The arguments of a process; --help [WORD ...] prints the usage or fields, and ends it.

    Args:
        argv: the program and its arguments.
        modes: descriptions of the commands, by name.

    Raises:
        ValueError: a flag, mode, config or field that does not exist, or a value of a wrong type.
    """
    if HELP & set(argv):
        words = [word for word in argv[1:] if not word.startswith("-")]
        words += ["all"] * ("--helpfull" in argv)
        print(usage.help_text(modes, {name: about for name, (*_, about) in FLAGS.items()}, words))
        sys.exit(0)
    values = _flag_values()
    rest = _parse(values, argv, known_only=True)
    _check_flags(rest)
    check_name("--mode", values.mode, modes)
    _check_prepare(values)
    file = values.config
    if values.mode == "import" and file is None and values.checkpoint:
        config, folder = _published(values.checkpoint, values.workdir)
    elif values.mode == "prepare":
        config = config_file.read(*config_file.parts(file)) if file else default.get_config()
        folder = _output(values.data, values.output)
    elif values.mode in WITHOUT_CONFIG and file is None and not _has_run(values.workdir):
        config = default.get_config()
        folder = files.expand(values.workdir or folders.RUNS / "study")
    else:
        config, folder = _config(file, values.workdir)
    configs.add_own_options(config, _fields_in(rest))
    before = config.copy_and_resolve_references()
    _check_fields(rest, folders.flatten(config.to_dict()))
    delattr(values, "config")
    config_flags.DEFINE_config_dict("config", config, "", values, sys_argv=rest)
    for field in folders.flatten(sections.DEFAULT.to_dict()):
        if (name := f"config.{field}") in values:
            values[name].parser = _OrNone(field, values[name].parser)
    if unexpected := _parse(values, rest)[1:]:
        hint = f": did you mean --mode={unexpected[0]}?" if unexpected[0] in modes else ""
        raise ValueError(f"unexpected arguments: {' '.join(unexpected)}{hint}")
    for field, text in _fields_in(rest).items():
        if text == "None" and sections.get(config, field) == ():
            sections.put(config, field, None)
    overridden = _overridden(values, config, before)
    if file is not None:
        known_fields.check(config)
        known_fields.check_network(config)
    return Arguments(
        values.mode,
        config,
        folder,
        frozenset(overridden),
        values.checkpoint,
        values.topology,
        values.format,
        values.data,
        (values.coordinator, values.num_processes, values.process_id, values.patience),
    )


def request(arguments: Arguments) -> Request:
    """The arguments of the command.

    Raises:
        ValueError: a config, or overrides of one, that do not fit the run.
    """
    config, folder = arguments.config, arguments.folder
    configs.take_advised(config, folder)
    if arguments.mode not in WITHOUT_RUN and folders.has_run(folder):
        theirs = configs.fields(configs.load(folder))
        ours = configs.fields(config)
        changed = [name for name in sorted(arguments.overridden) if ours[name] != theirs.get(name)]
        configs.check_overrides(changed, folder)
        configs.check_same(config, folder, configs.USE)
    checkpoint = arguments.checkpoint and str(files.expand(arguments.checkpoint))
    about = arguments.topology, arguments.format, arguments.data
    return Request(config, folder, checkpoint, *about)


def named_folder(argv: Sequence[str]) -> Path | None:
    """The run's folder as far as the arguments name one; they may be wrong otherwise."""
    values = _flag_values()
    try:
        _parse(values, argv, known_only=True)
    except ValueError:
        return None
    return _folder(values.config, values.workdir)


def check_processes(arguments: Arguments) -> None:
    """Raises ValueError unless all processes were started alike and see the same folder."""
    if jax.process_count() == 1:
        return
    fields = folders.flatten(arguments.config.to_dict(), "config.")
    about = {"--mode": arguments.mode, "--workdir": str(arguments.folder)}
    hosts.check_alike(about | fields)
    if arguments.mode == "train":
        hosts.check_shared(arguments.folder)


def _check_flags(arguments: Sequence[str]) -> None:
    """Raises ValueError for an argument that is neither a flag nor a field."""
    for argument in arguments:
        if unknown := re.match(r"--?([a-z_]\w*)(=|$)", argument):
            near = known_fields.near(unknown[1], FLAGS, "--")
            raise ValueError(f"--{unknown[1]} is no flag: {near}--help lists all flags")


def _check_fields(arguments: Sequence[str], fields: Iterable[str]) -> None:
    """Raises ValueError for a field that the config does not have, or no longer."""
    for argument in arguments:
        given = FIELD.match(argument)
        bare = re.match(r"--([a-z_]\w*\.[^=]*)", argument, re.I)
        if not given and bare:
            near = known_fields.near(bare[1], fields)
            raise ValueError(f"--{bare[1]} is no flag: {near}fields are --config.FIELD=VALUE")
        if not given or given[1] in fields:
            continue
        if own := [field for field in fields if field.startswith(f"{given[1]}.")]:
            raise ValueError(
                f"config.{given[1]} is a section: give one of its fields, such as config.{own[0]}"
            )
        raise known_fields.unknown(given[1], fields)


def _fields_in(arguments: Sequence[str]) -> dict[str, str]:
    """The texts of the config fields that arguments set, by their full names."""
    found = map(FIELD.match, arguments)
    return {match[1]: match[2] for match in found if match}


class _OrNone(flags.ArgumentParser):
    """The parser of a config field, where the text None is None, and a tuple needs no quotes."""

    def __init__(self, field: str, parser: Any):
        self.field, self.parser, self.syntactic_help = field, parser, parser.syntactic_help

    def parse(self, argument: Any) -> Any:
        if argument != "None":
            own = isinstance(argument, str) and sections.kind_of(self.field) is tuple
            return _tuple(argument) if own else self.parser.parse(argument)
        known_fields.check_value(self.field, None)
        return () if sections.kind_of(self.field) is tuple else None  # `parse` makes it None


def _tuple(text: str) -> tuple:
    """The tuple of a Python literal, or of words: "dps,pigdm", with or without brackets.

    Commas within brackets are of an element, as in regular expressions.
    """
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        text = text[1:-1] if re.fullmatch(r"\(.*,.*\)|\[.*,.*\]", text) else text
        words = re.split(r",(?![^({\[]*[)}\]])", text)
        return tuple(word.strip() for word in words if word.strip())
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _flag_values() -> flags.FlagValues:
    """The flags, without values."""
    values = flags.FlagValues()
    values.set_gnu_getopt()  # flags may come after fields of the config that are not known yet
    for name, (define, plain, about) in FLAGS.items():
        define(name, plain, about, flag_values=values)
    return values


def _parse(values: flags.FlagValues, argv: Sequence[str], known_only: bool = False) -> list[str]:
    """The arguments that are no flags, with the program before them."""
    try:
        return values(argv, known_only)
    except (flags.Error, TypeError, ValueError) as error:
        text = str(error).strip().splitlines()[-1].strip()
        text = re.sub(r"invalid literal for int\(\).*", "give a whole number", text)
        text = re.sub(r"could not convert string to float.*", "give a number", text)
        raise ValueError(text) from error


def _config(name: str | None, workdir: str | None) -> tuple[Config, Path]:
    """The config of --config or of the run in --workdir, and the run's folder."""
    for flag, value in {"--config": name, "--workdir": workdir}.items():
        if value == "":
            raise ValueError(f"{flag} is empty: give a value, or leave it out")
    folder = _folder(name, workdir)
    if folder is None:
        raise ValueError(
            "give --config=FILE.py[:VARIANT], or --workdir=FOLDER of a run: --mode=configs lists "
            "configs, --help commands"
        )
    if name is not None:
        return config_file.read(*config_file.parts(name)), folder
    if not folders.has_run(folder):
        near = next(filter(folders.has_run, (*folder.parents, *sorted(folder.glob("*")))), None)
        raise ValueError(
            f"there is no run in {folder}: "
            + (f"did you mean --workdir={near}? " if near else "")
            + "give the --workdir of a run, or --config=FILE.py[:VARIANT] to start one there"
        )
    return configs.load(folder), folder


def _has_run(workdir: str | None) -> bool:
    """True if --workdir is given, and names the folder of a run."""
    return workdir is not None and folders.has_run(files.expand(workdir))


def _published(source: str, workdir: str | None) -> tuple[Config, Path]:
    """The config of a published model, and the folder of its run."""
    path = files.expand(source)
    folder = files.expand(workdir) if workdir else folders.RUNS / path.stem
    return published.open_(path).config(), folder


def _check_prepare(values: flags.FlagValues) -> None:
    """Raises ValueError for flags of mode prepare in another one, or of a run in mode prepare."""
    preparing = values.mode == "prepare"
    for flag in ("workdir",) if preparing else ("data", "output"):
        if values[flag].value is not None:
            change = "give --output" if preparing else "give --config.data.path, or --mode=prepare"
            raise ValueError(f"--{flag} does nothing in --mode={values.mode}: {change}")


def _output(data: str | None, output: str | None) -> Path:
    """The folder of a prepared data set: --output, or one beside the images."""
    if output is not None:
        return files.expand(output)
    path = files.expand(data or "images")
    return path.with_name(f"{path.stem if path.is_file() else path.name}-prepared")


def _folder(name: str | None, workdir: str | None) -> Path | None:
    """The run's folder by --workdir or, without it, by the name of the config."""
    if workdir is not None:
        return files.expand(workdir)
    if name is None:
        return None
    file, variant = config_file.parts(name)
    return folders.RUNS / "-".join(filter(None, [file.stem, variant]))


def _overridden(values: flags.FlagValues, config: Config, before: Config) -> set[str]:
    """The fields that the command line sets, with --prompt and --label put into the config.

    What another component or an accuracy replaces is dropped from the config.
    """
    fields = set(config_flags.get_override_values(values["config"]))
    if values.prompt is not None:
        config.sampling.prompt = "\n".join(values.prompt)
        fields.add("sampling.prompt")
    if values.label is not None:
        config.sampling.labels = tuple(values.label)
        fields.add("sampling.labels")
    sections.reset_options(config, before, choices.CHOICES, fields)
    sections.reset_alternatives(config, choices.PRECISION, fields)
    configs.expand_paths(config)
    return fields
