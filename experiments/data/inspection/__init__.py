"""Measures of training data, and the numbers of the noise that they advise."""
