"""Components from config sections: one mechanism that reads options and refuses the others.

A Choice is a field that names a component, such as config.sampling.method, with the config field of
each option of each component. An option that is set counts only for the component that is chosen:
setting it for another one is an error.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from configs import default
from experiments.runs.folder import flatten
from models.config import Config
from sde_lib.checks import check_name

Options = Mapping[str, str]
"""Config fields by the names of a component's options."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A field that names a component.

    Attributes:
        field: its full name, such as "sampling.method".
        components: for each component, the config field of each of its options.
        default: the component that None stands for.
        renews: another component starts from its own defaults, also for options that both have.
        within: (field, component) of the choice that this one is a part of; None for no such.
    """

    field: str
    components: Mapping[str, Options]
    default: str | None = None
    renews: bool = False
    within: tuple[str, str] | None = None

    def read(self, config: Config) -> tuple[str, dict[str, Any]]:
        """The component's name, and its options but for those that are None.

        Raises:
            ValueError: an unknown component, or an option of a component that is not chosen.
        """
        name = self.chosen(config)
        check_name(f"config.{self.field}", name, self.components)
        own = self.components[name]
        for field in sorted(self.fields() - set(own.values())):
            if is_set(config, field):
                owners = [
                    other
                    for other, options in self.components.items()
                    if field in set(options.values())
                ]
                raise ValueError(
                    f"config.{field} is {get(config, field)!r}, but config.{self.field} = {name!r} "
                    f"has no such option: leave it out, or choose one with it "
                    f"({', '.join(map(repr, owners))})"
                )
        values = {option: _find(config, field) for option, field in own.items()}
        return name, {option: value for option, value in values.items() if value is not None}

    def check(self, config: Config) -> None:
        """Raises what `read` raises, if the choice is made at all."""
        if self.applies(config):
            self.read(config)

    def applies(self, config: Config) -> bool:
        """False for a part of a component that is not chosen."""
        return self.within is None or get(config, self.within[0]) == self.within[1]

    def chosen(self, config: Config) -> Any:
        """The name of the component that the config chooses."""
        name = get(config, self.field)
        return self.default if name is None else name

    def fields(self) -> set[str]:
        """The config fields of all options of all components."""
        return {field for options in self.components.values() for field in options.values()}


def reset_alternatives(
    config: Config, alternatives: Sequence[tuple[str, ...]], given: Iterable[str]
) -> None:
    """Resets the groups of fields of which none is given, if one of another group is.

    Args:
        config: changed in place.
        alternatives: groups of fields that take the place of each other.
        given: fields that the command line sets.
    """
    idle = [group for group in alternatives if not set(group) & set(given)]
    if len(idle) < len(alternatives):
        reset(config, itertools.chain(*idle))


def options_of(component: Any, section: str, names: Mapping[str, str] | None = None) -> Options:
    """The config fields of a dataclass's options: section.NAME, unless `names` has another.

    Options without a field in configs/default.py keep the component's default.
    """
    options = (field.name for field in dataclasses.fields(component) if field.init)
    fields = {name: (names or {}).get(name, f"{section}.{name}") for name in options}
    return {name: field for name, field in fields.items() if _exists(field)}


def get(config: Config, field: str) -> Any:
    """The value of a field or a section by its full name; the config itself for ""."""
    value = config
    for name in filter(None, field.split(".")):
        value = value[name]
    return value


def kind_of(field: str) -> type:
    """The type of a field of configs/default.py."""
    section, _, name = field.rpartition(".")
    return get(DEFAULT, section).get_type(name)


def put(config: Config, field: str, value: Any) -> None:
    """Sets a field by its full name, also to None."""
    *sections, name = field.split(".")
    with config.ignore_type():
        get(config, ".".join(sections))[name] = value


def is_set(config: Config, field: str) -> bool:
    """True if a field differs from its default in configs/default.py."""
    return _find(config, field) != _find(DEFAULT, field)


def fields_in(section: str) -> list[str]:
    """The full names of all fields of a section, and of the sections in it."""
    return [f"{section}.{name}" for name in flatten(get(DEFAULT, section).to_dict())]


def given(config: Config, options: Options) -> dict[str, Any]:
    """The options that differ from their defaults, by name."""
    return {name: get(config, field) for name, field in options.items() if is_set(config, field)}


def check_needed(config: Config, section: str, needed: str, fields: Iterable[str]) -> None:
    """Raises ValueError if an option of a section is set and the one that it needs is not."""
    if get(config, f"{section}.{needed}"):
        return
    for name in fields:
        if name != needed and is_set(config, f"{section}.{name}"):
            raise ValueError(
                f"config.{section}.{name} is {get(config, f'{section}.{name}')!r}, which does "
                f"nothing without config.{section}.{needed}: give that too, or leave it out"
            )


def reset_options(
    config: Config, before: Config, choices: Iterable[Choice], overridden: Iterable[str]
) -> None:
    """Resets the options of components that were replaced to their defaults.

    An option that was overridden too stays, and is refused if it does not fit. An option that names
    a component itself, such as a weighting, goes with the options of that.

    Args:
        config: with the overrides.
        before: without them.
        choices: that may have been changed, each before those that its options name.
        overridden: full names of the fields that were given.
    """
    for choice in choices:
        if choice.chosen(config) != choice.chosen(before):
            own = set() if choice.renews else _own_fields(choice, config)
            reset(config, choice.fields() - own - set(overridden))


def drop_unused(config: Config, choices: Iterable[Choice]) -> None:
    """Resets the options of components that are not chosen."""
    for choice in choices:
        if choice.applies(config):
            reset(config, choice.fields() - _own_fields(choice, config))


def reset(config: Config, fields: Iterable[str]) -> None:
    """Sets fields to their defaults in configs/default.py; removes those that it does not have."""
    for field in fields:
        section, _, name = field.rpartition(".")
        if _exists(field):
            put(config, field, get(DEFAULT, field))
        elif name in get(config, section):
            with config.unlocked():
                del get(config, section)[name]


def _own_fields(choice: Choice, config: Config) -> set[str]:
    return set(choice.components.get(choice.chosen(config), {}).values())


def _find(config: Config, field: str) -> Any:
    """The value of a field by its full name; None if its section does not have it."""
    section, _, name = field.rpartition(".")
    return get(config, section).get(name)


def _exists(field: str) -> bool:
    section, _, name = field.rpartition(".")
    return name in get(DEFAULT, section)


DEFAULT = default.get_config()
