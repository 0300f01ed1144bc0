"""Sources of numbers: arrays in files, and tables."""
