"""A trained model as one object: its SDE, network, weights, conditions, guidance and decoder.

May import experiments.training and the layers below it.
"""
