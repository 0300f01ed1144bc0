"""Score networks, and what turns a network's output into a score."""

from models import torch_import
from models.parametrization import score_fn
from models.registry import MODELS, create

__all__ = ["MODELS", "create", "score_fn", "torch_import"]
