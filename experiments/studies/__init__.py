"""Measurements for papers: solvers, exposure bias, ablation, score matching, Langevin dynamics.

Each study that is a mode of experiments.main has run(request). It reads the config there, through
subject.py, and passes objects on; statistics.py has the numerics that studies share.
"""
