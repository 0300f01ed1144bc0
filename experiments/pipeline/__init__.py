"""A trained model as one object: its SDE, network, weights, conditions, guidance and decoder.

May import experiments.evaluation, .training, .data and .runs.
"""
