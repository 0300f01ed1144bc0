"""Things that can be trained, one a file: score model, classifier, discriminator, autoencoder, ...

base.py has their protocol. May import experiments.evaluation and the layers below it.
"""
