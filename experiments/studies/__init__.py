"""Measurements: solvers, exposure bias, ablation, score matching, Langevin dynamics, the data.

A study that is a mode of experiments.main has run(request). It reads the config there, through
subject.py, and passes objects on; statistics.py has the numerics that studies share.

May import experiments.build and the layers below it.
"""
