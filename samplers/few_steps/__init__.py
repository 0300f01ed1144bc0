"""Samplers of models that are trained to sample in few steps."""
