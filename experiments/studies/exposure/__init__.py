"""Studies of exposure bias, the difference between sampling and training."""
