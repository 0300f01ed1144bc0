"""Formats of the networks of EDM and EDM2, in the pickles of NVIDIA."""
