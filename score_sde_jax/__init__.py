"""Score-based generative modeling through stochastic differential equations, in JAX.

    from score_sde_jax import load, models, samplers, sde_lib

A wheel holds all packages inside this one, so that none takes a common name such as `models`. In a
clone of the repository they are the top-level folders (setup.py).
"""

from importlib import metadata

import models
import samplers
import sde_lib
from experiments import load

__version__ = metadata.version("score-sde-jax")
__all__ = ["load", "models", "samplers", "sde_lib"]
