"""The cost of a program before it runs: compiled.py reads the text that XLA compiled."""
