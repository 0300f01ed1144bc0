"""Score networks, and the preconditioning that turns a network's output into a score."""

from models import inception, published, torch_import, weights
from models.config import data_kind, data_shape, describe
from models.learned_schedule import LearnedSchedule
from models.log_variance import LogVariance
from models.parametrization import (
    NoiseModel,
    Preconditioning,
    precondition,
    preconditioning,
    score_fn,
)
from models.registry import (
    ENCODERS,
    MODELS,
    check_shape,
    create,
    data_axes,
    in_float32,
    kind,
    network_class,
    options,
)

__all__ = [
    "ENCODERS",
    "MODELS",
    "LearnedSchedule",
    "LogVariance",
    "NoiseModel",
    "Preconditioning",
    "check_shape",
    "create",
    "data_axes",
    "data_kind",
    "data_shape",
    "describe",
    "in_float32",
    "inception",
    "kind",
    "network_class",
    "options",
    "precondition",
    "preconditioning",
    "published",
    "score_fn",
    "torch_import",
    "weights",
]
