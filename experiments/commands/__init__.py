"""The commands of experiments.main, one short file each: run(request).

May import everything but experiments.main and experiments.benchmark.
"""
