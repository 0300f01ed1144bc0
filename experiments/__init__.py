"""The command line: python -m experiments.main --config=..."""
