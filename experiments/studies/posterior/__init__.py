"""The study of posterior samplers: on mixtures with known posteriors, and on a model's images."""
