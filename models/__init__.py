"""Score networks, and what turns a network's output into a score."""

from models import inception, torch_import
from models.parametrization import noise_labels, score_fn
from models.registry import MODELS, create, is_classifier

__all__ = [
    "MODELS",
    "create",
    "inception",
    "is_classifier",
    "noise_labels",
    "score_fn",
    "torch_import",
]
