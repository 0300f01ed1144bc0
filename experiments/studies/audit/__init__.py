"""Studies of responsibility: what a model has kept of its training data."""
