"""Photographs of 48 x 64 pixels, cut from those that scikit-learn includes, on a CPU.

    python -m experiments.main --config=configs/photographs.py

two takes 2,000 training steps, 38 minutes of processor time on two busy cores. Samples have the
textures of the two photographs (petals, leaves, roofs); test bits/dim are 3.19 +- 0.10. Test crops
are of other regions, with other power: samples have 3.1, 2.1, 2.1 and 2.2 times theirs in four
bands of frequencies, and training crops 1.8, 1.7, 2.4 and 1.5 times.
"""

from configs import default, emoji
from configs.default import Part

BASE: Part = {
    **emoji.BASE,
    **emoji.EDM,
    "data.dataset": "sample_images",
    "data.shape": (48, 64, 3),
    "data.test_fraction": 0.25,
    "data.random_flip": True,
    "training.n_iters": 2000,
    "training.batch_size": 16,
    "training.log_freq": 100,
    "training.snapshot_freq": 100_000,
    "training.eval_freq": 500,
    "training.at_end": ("spectrum", "pictures", "likelihood"),
    "sampling.n_samples": 48,
    "sampling.batch_size": 16,
    "eval.batch_size": 16,
    "model.nf": 16,
    "model.ch_mult": (1, 2, 4, 4),
    "model.attn_resolutions": (6,),
}
VARIANTS: dict[str, tuple[Part, ...]] = {
    "two": (),
    "six": ({"data.dataset": "photographs"},),
}


def get_config(variant: str = "two") -> default.Config:
    """The config of a variant, which says how many photographs there are."""
    return default.experiment(BASE, VARIANTS, variant)
