"""The fields of a config: a misspelt one, or a value of a wrong type, is refused."""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

import models
from experiments.build.fields import choices, migrate, sections
from experiments.pipeline.guidance import GUIDES
from experiments.runs.folder import flatten
from models.config import Config
from sde_lib.checks import TYPES, has_type

SIMILAR = 0.75  # of 1: names that are likely to be meant as one another


def check(config: Config, extended: bool = False) -> None:
    """Raises ValueError for a field that does not exist, is missing or has a value of a wrong type.

    A field exists if configs/default.py has it, or if it is one of a network's or a guide's own.

    Args:
        config: of a run or an experiment.
        extended: allows fields that resemble no other of their section, which a condition or a
            sampler that was registered may read.
    """
    plain, ours = flatten(sections.DEFAULT.to_dict()), flatten(config.to_dict())
    known = {*plain, *_own_fields()}
    for field in sorted(ours.keys() - known):
        if not (extended and _is_new(field, known)):
            raise unknown(field, known)
    for field in sorted(plain.keys() - ours.keys()):
        raise ValueError(f"config.{field} is missing: change single fields, not whole sections")
    for field in plain:
        check_value(field, ours[field])


def check_value(field: str, value: Any) -> None:
    """Raises ValueError for a value whose type is not that of a field of configs/default.py."""
    default = sections.get(sections.DEFAULT, field)
    if value is None and default is None:
        return
    kind = sections.kind_of(field)
    if kind is tuple:
        if not isinstance(value, tuple | list):
            raise ValueError(f"config.{field} is {value!r}: it must be a tuple, such as {default}")
    elif not has_type(value, kind):
        raise ValueError(f"config.{field} is {value!r}: it must be {TYPES[kind]}")


def check_network(config: Config) -> None:
    """Raises ValueError for a field of config.model that is another network's."""
    choices.NETWORK.read(config)
    choices.ENCODER.check(config)


def unknown(field: str, known: Iterable[str]) -> ValueError:
    """The error for a field that does not exist, or no longer; it suggests the nearest one."""
    if new := migrate.new_name(field):
        return ValueError(f"config.{field} is now config.{new}")
    hint = f"{near(field, known)}--help all lists every field"
    return ValueError(f"config.{field} does not exist: {hint}")


def near(name: str, fields: Iterable[str], prefix: str = "config.") -> str:
    """A question that names up to three fields: of the same last name, or else of similar names."""
    fields, last = sorted(fields), name.rpartition(".")[2]
    same = [field for field in fields if field.rpartition(".")[2] == last]
    close = difflib.get_close_matches(name, same or fields, 3, 0.0 if same else 0.6)
    return f"did you mean {' or '.join(f'{prefix}{field}' for field in close)}? " if close else ""


def _own_fields() -> set[str]:
    """The fields of networks and guides that configs/default.py need not have."""
    own = {f"model.{name}" for network in models.MODELS for name in models.options(network)}
    for name in GUIDES.keys() - set(sections.DEFAULT.guidance):
        own |= {f"guidance.{name}.{field.name}" for field in dataclasses.fields(GUIDES[name])}
    return own


def _is_new(field: str, known: Iterable[str]) -> bool:
    """True if no known field of its section, or no section if it is in none, has a similar name."""
    section, _, name = field.rpartition(".")
    there = [other.rpartition(".")[::2] for other in known]
    beside = [other for parent, other in there if parent == section]
    if not beside:
        name, beside = section, [parent for parent, _ in there]
    return not (migrate.new_name(field) or difflib.get_close_matches(name, beside, 1, SIMILAR))
