"""The door: config sections become objects here, once, and are passed on.

Nothing below takes a config. May import everything but experiments.commands, .studies, .benchmark
and .main.
"""
