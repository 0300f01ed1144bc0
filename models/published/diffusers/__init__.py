"""Formats of diffusers: folders with a config.json, and schedulers beside them."""
