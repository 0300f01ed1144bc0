"""Training of any task: the step, the loop, its state, averages and checkpoints.

May import experiments.data and the layers below it.
"""
