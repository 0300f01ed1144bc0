"""The cost of everything around the network, and the speed of the network itself.

May import experiments.commands and experiments.studies, and the layers below.
"""
