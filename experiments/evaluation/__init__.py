"""Figures of a trained model: bits/dim, bounds, features and distances, ROC curves.

May import experiments.pipeline and the layers below it.
"""
