"""Long computations: loops in segments with their progress, and Ctrl-C in native code."""
