"""The study of step grids: noise levels that fit the trajectories of a model."""
