"""Figures of a trained model: bits/dim, bounds, features and distances, ROC curves.

May import experiments.training, .data and .runs.
"""
