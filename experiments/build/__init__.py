"""The door: config sections become objects here, once, and are passed on.

Nothing below takes a config. May import experiments.tasks and the layers below it.
"""
