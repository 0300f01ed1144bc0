"""Random configs around valid ones: each runs two steps, or is refused in one line."""

import dataclasses
import functools
import math
import types
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from tiny_configs import digits_config, points_config

from experiments.build import pipelines, tasks
from experiments.build.components import diffusion, objectives, optimization, specs
from experiments.build.fields import choices, sections
from experiments.commands import train
from experiments.commands.request import Request
from experiments.runs.folder import flatten

EXAMPLES = 300
BASES = {"points": points_config, "digits": digits_config}
FLOATS = (math.nan, math.inf, -1.0, 0.0, 1e-9, 0.1, 0.5, 1.0, 3.0, 100.0)
INTEGERS = (-7, -1, 0, 1, 2, 3, 4, 8, 2**31, 10**12)
TUPLES = ((), (1,), (-1,), (4,), ("x",), (1.5,))
FIXED = (  # fields whose every value takes long, reads other files or starts other programs
    *("training.n_iters", "training.at_end", "training.sinks", "training.quality_freq"),
    *("data.cache", "data.path", "eval.features"),
)
ELSEWHERE = (  # sections and fields that other modes use, or the reports after the last step
    *("ablate.", "detect.", "edit.", "eval.", "exposure_bias.", "mesh.", "guidance.", "prepare."),
    *("benchmark_solvers.", "sampling.", "data.num_classes", "data.resident_bytes", "data.auto"),
)


def names(field: str) -> tuple[str, ...]:
    """Values of a field that holds a name: those that are known, and one that is not."""
    known = (choice.components for choice in choices.CHOICES if choice.field == field)
    return (*(name for components_ in known for name in components_), "", "nonsense")


@st.composite
def changes(draw: Any) -> tuple[str, dict[str, Any]]:
    """A base, and one to three fields of it with random values."""
    base = draw(st.sampled_from(sorted(BASES)))
    plain = flatten(BASES[base]().to_dict())
    fields = sorted(plain.keys() - set(FIXED))
    chosen = draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3, unique=True))
    return base, {field: draw(value_of(field, plain[field])) for field in chosen}


def value_of(field: str, value: Any) -> Any:
    """Random values of a field, most of the right type."""
    in_default = field in flatten(sections.DEFAULT.to_dict())
    kind = sections.kind_of(field) if in_default else type(value)
    values = {bool: (True, False), int: INTEGERS, float: FLOATS, str: names(field)}
    right = st.sampled_from(values.get(kind, TUPLES))
    return right | st.sampled_from((None, "a", 1.5, True)) if draw_wrong(field) else right


def draw_wrong(field: str) -> bool:
    """A tenth of the fields also get values of wrong types."""
    return sum(map(ord, field)) % 10 == 0


def fingerprint(thing: Any, seen: frozenset[int] = frozenset()) -> Any:
    """Everything that an object is made of, without configs: also what its functions hold."""
    if id(thing) in seen or isinstance(thing, ConfigDict | types.ModuleType | type):
        return None
    inside = functools.partial(fingerprint, seen=seen | {id(thing)})
    if isinstance(thing, functools.partial):
        return inside(thing.func), [*map(inside, thing.args)], inside(thing.keywords)
    if isinstance(thing, types.FunctionType):
        cells = thing.__closure__ or ()
        return thing.__qualname__, [inside(cell.cell_contents) for cell in cells]
    if dataclasses.is_dataclass(thing):
        names_ = (field.name for field in dataclasses.fields(thing))
        return type(thing).__name__, {n: inside(getattr(thing, n, None)) for n in names_}
    if isinstance(thing, dict):
        return {str(key): inside(value) for key, value in thing.items()}
    if isinstance(thing, tuple | list):
        return [*map(inside, thing)]
    if isinstance(thing, np.ndarray | jax.Array):
        return np.asarray(thing).tobytes()
    return thing if isinstance(thing, str | int | float | bool | None) else type(thing).__name__


def parts(config: Any) -> str:
    """All objects that training with a config uses."""
    made: list[Any] = [tasks.task(config), optimization.training(config)]
    made += [specs.data_spec(config), diffusion.sde(config)]
    if config.model.name != "autoencoder":
        made.append(objectives.loss_of(config, diffusion.sde(config), (8, 8, 1))(None))
    made.append(pipelines.untrained(config))
    return repr(fingerprint(made))


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[*HealthCheck])
@given(changes())
def test_a_config_runs_or_is_refused_in_one_line(tmp_path_factory, change):
    """None that runs ignores a field that was set."""
    base, values = change
    config = BASES[base]()
    plain = flatten(config.to_dict())
    config.training.update(n_iters=2, eval_freq=1000)
    for field, value in values.items():
        sections.put(config, field, value)
    refusal = ""
    try:
        train.run(Request(config, tmp_path_factory.mktemp("fuzz") / "run"))
    except ValueError as error:
        refusal = str(error)
    except FloatingPointError:  # of silly numbers
        pass
    assert "\n" not in refusal
    if refusal:
        return
    whole = parts(config)
    for field, value in values.items():
        if value != plain[field] and not field.startswith(ELSEWHERE):
            without = config.copy_and_resolve_references()
            sections.put(without, field, plain[field])
            assert parts(without) != whole, f"config.{field} = {value!r} changes nothing"
