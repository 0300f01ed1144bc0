"""Sources of numbers: arrays in files with masks beside them, and tables."""
