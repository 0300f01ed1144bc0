"""Data: preparation, sources, inspection, batches, scaling, augmentation, captions, latents.

May import experiments.runs.
"""
