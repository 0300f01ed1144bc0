"""Data: sources, batches, scaling, augmentation, captions, confidences and latents.

May import experiments.runs.
"""
