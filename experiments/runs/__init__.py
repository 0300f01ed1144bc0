"""A run's folder and machine: config, metrics, cards, pictures, caches; hosts and devices.

Imports nothing else of experiments/.
"""
