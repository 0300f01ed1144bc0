"""Score networks, and what turns a network's output into a score."""

from models import inception, torch_import
from models.autoencoder import latent_shape
from models.learned_schedule import LearnedSchedule
from models.parametrization import network_inputs, noise_labels, score_fn
from models.registry import (
    MODELS,
    create,
    encoder_is_classifier,
    encoder_name,
    in_float32,
    is_autoencoder,
    is_classifier,
    is_discriminator,
)

__all__ = [
    "MODELS",
    "LearnedSchedule",
    "create",
    "encoder_is_classifier",
    "encoder_name",
    "in_float32",
    "inception",
    "is_autoencoder",
    "is_classifier",
    "is_discriminator",
    "latent_shape",
    "network_inputs",
    "noise_labels",
    "score_fn",
    "torch_import",
]
