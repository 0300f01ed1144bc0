"""Fine-tuning: a training that begins with the weights of another one, where they fit.

Weights are matched by name. A layer whose shape follows from the data or from a condition is made
anew where these differ: the embedding of the classes, the layers that read or write channels. So is
a layer that only a new condition needs. Layers of a condition that is gone are left out. All other
weights must be the same, by name and shape.
"""

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.training.state import TrainState, with_weights
from models.discriminator import Discriminator
from models.learned_schedule import SCHEDULE, LearnedSchedule
from models.log_variance import LOG_VARIANCE, LogVariance, has_own

Shapes = dict[str, tuple[int, ...]]
"""The shapes of parameters by their names, joined by "/"."""
FIELDS: dict[str, tuple[str, ...]] = {  # of networks, by the change of data or conditions
    "classes": ("num_classes", "null_class"),
    "classes to tell apart": ("num_outputs",),
    "channels": ("channels",),
    "outputs for the variance": ("learned_variance",),
    "augmentation labels": ("augment_dim",),
    "confidences": ("label_confidence",),
    "captions": ("text", "text_length", "text_width", "text_depth"),
    "smaller images": ("low_res",),
    "numbers of the vector": ("vector_dim",),
    "attributes": ("attributes",),
    "images beside x": ("image_channels",),
    "patch discriminator": ("adversarial",),
}
CHANGES = (*FIELDS, "learned schedule", "features of the log variance")
"""The changes that layers are made anew for."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A network, as far as the shapes of its parameters follow from it.

    Attributes:
        network: the linen module.
        shape: of its input, without the batch.
        schedule: a noise schedule is learned beside it.
        log_variance: features of the loss's log variance, if one is learned beside it.
    """

    network: nn.Module
    shape: tuple[int, ...]
    schedule: bool = False
    log_variance: int = 0

    def value(self, change: str) -> Any:
        """The data or the condition, as a number or as something that is true if there is any."""
        if change == "learned schedule":
            return self.schedule
        if change == "features of the log variance":
            return self.log_variance
        if change == "channels":
            return self.shape[-1]
        network = _seeing(self.network)
        first, *sizes = (getattr(network, name, None) for name in FIELDS[change])
        if change == "attributes":
            return " + ".join(map(str, first or ()))
        return (first, *sizes) if first and sizes else first

    def like(self, other: "Model", changes: Iterable[str]) -> "Model":
        """This model with the data and conditions of another one of the same kind."""
        fields, shape, schedule, variance = {}, self.shape, self.schedule, self.log_variance
        for change in changes:
            schedule = other.schedule if change == "learned schedule" else schedule
            if change == "features of the log variance":
                variance = other.log_variance
            shape = (*shape[:-1], other.shape[-1]) if change == "channels" else shape
            seeing = _seeing(other.network)
            names = (name for name in FIELDS.get(change, ()) if hasattr(seeing, name))
            fields |= {name: getattr(seeing, name) for name in names}
        network = _seeing(self.network).clone(**fields)
        if isinstance(self.network, Discriminator):
            network = self.network.clone(encoder=network)
        return Model(network, shape, schedule, variance)

    def shapes(self) -> Shapes:
        """The shapes of the parameters, traced without weights."""
        key, x = jax.random.key(0), jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        labels = jax.ShapeDtypeStruct((1,), jnp.float32)
        params: Any = jax.eval_shape(self.network.init, key, x, labels)["params"]
        if self.schedule:
            init = LearnedSchedule(0.0, 1.0).init
            params = {**params, SCHEDULE: jax.eval_shape(init, key, jnp.zeros(()))["params"]}
        if self.log_variance and not has_own(params):
            init = LogVariance(self.log_variance).init
            params = {**params, LOG_VARIANCE: jax.eval_shape(init, key, labels)["params"]}
        return shapes_of(params)


class Match(NamedTuple):
    """The layers that do not fit, with the reasons.

    anew: layers of the new network. left_out: layers that only the weights have.
    """

    anew: dict[str, str]
    left_out: dict[str, str]

    def lines(self, names: Collection[str]) -> list[str]:
        """A line for each layer; one for a module whose layers are all made anew.

        `names` are those of the new network's parameters.
        """
        kept = {name for name in names if _layer(name) not in self.anew}
        modules = {_outermost(layer, kept): reason for layer, reason in self.anew.items()}
        return [
            *(f"made anew: {layer} ({reason})" for layer, reason in sorted(modules.items())),
            *(f"left out: {layer} ({reason})" for layer, reason in sorted(self.left_out.items())),
        ]


def match(ours: Model, theirs: Model, here: Shapes, there: Shapes) -> Match | None:
    """The layers that do not fit because of CHANGES; None if others do not fit either.

    Args:
        ours: the new network.
        theirs: the network whose weights are taken.
        here: shapes of the new network's parameters.
        there: shapes of the weights.
    """
    if type(_seeing(ours.network)) is not type(_seeing(theirs.network)):
        return None
    changes = [name for name in CHANGES if ours.value(name) != theirs.value(name)]
    stages = [ours.like(theirs, changes[k:]).shapes() for k in range(len(changes))] + [here]
    if stages[0] != there:
        return None
    reasons: dict[str, list[str]] = {}
    for change, before, after in zip(changes, stages[:-1], stages[1:], strict=True):
        names = {name for name in before | after if before.get(name) != after.get(name)}
        for layer in sorted(set(map(_layer, names))):
            text = _text(change, theirs.value(change), ours.value(change))
            reasons.setdefault(layer, []).append(text)
    texts = {layer: ", ".join(of_layer) for layer, of_layer in reasons.items()}
    own = set(map(_layer, here))
    anew = {layer: text for layer, text in texts.items() if layer in own}
    return Match(anew, {layer: text for layer, text in texts.items() if layer not in own})


def warm_start(state: TrainState, theirs: Any, matched: Match) -> TrainState:
    """A state before the first step with the weights of another network, in the averages too.

    Args:
        state: of random weights, which the layers that are made anew keep.
        theirs: the weights, a tree of arrays.
        matched: from `match`.
    """
    own, weights = (flatten_dict(tree, sep="/") for tree in (state.params, theirs))
    taken = {name: weights[name] for name in own if _layer(name) not in matched.anew}
    return with_weights(state, unflatten_dict(taken, sep="/"))


def shapes_of(params: Any) -> Shapes:
    """The shapes of a tree of arrays."""
    leaves: Any = flatten_dict(params, sep="/")
    return {name: tuple(leaf.shape) for name, leaf in leaves.items()}


def differences(ours: nn.Module, theirs: nn.Module) -> dict[str, tuple[Any, Any]]:
    """The fields beside those of FIELDS in which two networks differ: (there, here) by name."""
    ours, theirs = _seeing(ours), _seeing(theirs)
    if type(ours) is not type(theirs):
        return {"name": (type(theirs).__name__, type(ours).__name__)}
    fields: Any = vars(type(ours))["__dataclass_fields__"]
    names = set(fields) - {"name", "parent", *(name for group in FIELDS.values() for name in group)}
    values = {name: (getattr(theirs, name), getattr(ours, name)) for name in sorted(names)}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}


def _seeing(network: Any) -> Any:
    """The network that sees the data; of a discriminator, that is its encoder."""
    return network.encoder if isinstance(network, Discriminator) else network


def _layer(name: str) -> str:
    """The layer of a parameter: the module that has it, or itself without one."""
    return name.rpartition("/")[0] or name


def _outermost(layer: str, kept: Collection[str]) -> str:
    """The outermost module around a layer that has none of the parameters in `kept`."""
    parts = layer.split("/")
    modules = ("/".join(parts[: k + 1]) for k in range(len(parts)))
    bare = (module for module in modules if not any(n.startswith(f"{module}/") for n in kept))
    return next(bare, layer)


def _text(change: str, there: Any, here: Any) -> str:
    there, here = (value[0] if isinstance(value, tuple) else value for value in (there, here))
    if isinstance(there, int) and not isinstance(there, bool) and there != here:
        return f"{there} {change} there, {here} here"
    if there and here:
        return f"other {change} there"
    return f"{change} there, none here" if there else f"no {change} there"
