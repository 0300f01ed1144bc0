"""The type of a config."""

from typing import Any

Config = Any
"""An ml_collections.ConfigDict, whose fields no type checker can know."""
