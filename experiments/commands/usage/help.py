"""The text of --help: commands, flags and examples; with words after it, fields of the config.

`--help completion` is a script for the shell.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from configs import default
from experiments.commands.usage import completion

USAGE = """\
python -m experiments.main --config=FILE.py[:VARIANT] [--workdir=FOLDER] [--config.FIELD=VALUE ...]
python -m experiments.main --mode=MODE --workdir=FOLDER [--config.FIELD=VALUE ...]

The first line trains, in the folder of a new run. The second one does something with that run,
whose folder holds its config."""
EXAMPLES = """\
  python -m experiments.main --mode=configs
  python -m experiments.main --config=configs/digits.py:edm
  python -m experiments.main --mode=sample --workdir=runs/digits-edm --config.sampling.method=unipc
  python -m experiments.main --mode=likelihood --workdir=runs/digits-edm
  python -m experiments.main --mode=import --checkpoint=google/ddpm-cifar10-32"""

COMPLETION = """\
To complete flags, configs and fields with Tab in bash or zsh:
  source <(python -m experiments.main --help completion)"""


def help_text(modes: Mapping[str, str], flags: Mapping[str, str], words: Sequence[str] = ()) -> str:
    """The usage, or the fields of the config that the words name.

    Args:
        modes: descriptions of the commands, by name.
        flags: descriptions of the flags, by name.
        words: sections or parts of names of fields; "all": every field; "completion": a script for
            the shell; (): the usage.
    """
    if list(words) == ["completion"]:
        return completion.script(modes, flags, (name for name, *_ in described_fields()))
    if words:
        return config_help(words)
    sections = {add.__name__[1:]: inspect.getdoc(add) or "" for add in default.SECTIONS}
    return (
        f"{USAGE}\n\ncommands, --mode=MODE:\n{_lines(modes)}\n\n"
        f"flags:\n{_lines({f'--{name}': about for name, about in flags.items()})}\n\n"
        f"sections of the config:\n{_lines(sections)}\n\n"
        "--help SECTION, such as --help sampling, lists fields with their defaults; --help all\n"
        f"lists every field.\n\nexamples:\n{EXAMPLES}\n\n{COMPLETION}"
    )


def config_help(words: Sequence[str] = ("all",)) -> str:
    """Fields of configs/default.py, with their defaults and comments.

    Args:
        words: sections or parts of names of fields; "all": every field.

    Raises:
        ValueError: no field has such a name.
    """
    fields = described_fields()
    if "all" not in words:
        fields = [field for field in fields if any(word in field[0] for word in words)]
    if not fields:
        parts = {part for name, *_ in described_fields() for part in name.split(".")}
        near = get_close_matches(words[0], sorted(parts), 1)
        hint = f"did you mean --help {near[0]}? " if near else ""
        raise ValueError(
            f"--help {' '.join(words)}: no field has such a name; {hint}try --help all"
        )
    lines = (f"  {f'--config.{name}={value}':<46}  {comment}" for name, value, comment in fields)
    return "\n".join(line.rstrip() for line in lines)


def described_fields() -> list[tuple[str, str, str]]:
    """Name, default and comment of every field of configs/default.py, as they are written there."""
    sections_of, found = {"config": ""}, []
    for line in inspect.getsource(default).splitlines():
        made = re.match(r"\s+(\w+) = (\w+)\.(\w+) = Section\(\)", line)
        if made:
            sections_of[made[1]] = f"{sections_of[made[2]]}{made[3]}."
            continue
        if found and (comment := re.match(r"\s+# (.*)", line)):  # continues that of a field
            found[-1][2] += f" {comment[1]}"
        field = re.match(r"\s+(\w+)\.(\w+) = (.*?)(?:  # (.*))?$", line)
        if field and field[1] in sections_of:
            value = "None" if field[3].startswith("default(") else field[3]
            found.append([f"{sections_of[field[1]]}{field[2]}", value, field[4] or ""])
    return [(name, value, comment) for name, value, comment in found]


def _lines(about: Mapping[str, str]) -> str:
    """A line for each name, with its description."""
    return "\n".join(f"  {name:<18}{text}" for name, text in about.items())
