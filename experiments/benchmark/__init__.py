"""The cost of everything around the network, and the speed of the network itself.

May import everything but experiments.main.
"""
