"""Series: a stochastic process of known law, and an electrocardiogram, in minutes on a CPU.

python -m experiments.main --config=configs/series.py:electrocardiogram
"""

from configs import default, fields
from configs.default import Part

ELECTROCARDIOGRAM: Part = {
    "data.dataset": "electrocardiogram",
    "data.shape": (512, 1),
    "data.test_fraction": 0.2,
    "training.n_iters": 800,
    "training.batch_size": 32,
    "sampling.n_samples": 64,
    "sampling.batch_size": 64,
    "model.periodic": False,
    "model.ch_mult": (1, 2, 2, 4, 4),
    "model.attn_resolutions": (64, 32),
}
VARIANTS: dict[str, tuple[Part, ...]] = {
    "process": fields.VARIANTS["series"],
    "electrocardiogram": (ELECTROCARDIOGRAM,),
}


def get_config(variant: str = "process") -> default.Config:
    """The config of a variant, which names its data."""
    return default.experiment(fields.BASE, VARIANTS, variant)
