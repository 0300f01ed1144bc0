"""Measurements for papers: solvers, exposure bias, ablation, score matching, Langevin dynamics.

May import experiments.build and the layers below it.
"""
