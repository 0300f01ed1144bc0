"""Numbers of the noise in a config, beside those that the training data advise."""
