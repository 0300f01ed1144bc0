"""Measurements for papers: solvers, exposure bias, ablation, score matching, Langevin dynamics.

May import everything but experiments.main, .commands and .benchmark.
"""
