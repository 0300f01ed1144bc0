"""Checks of what the data ask of the other components: couplings, sources and missing values."""
