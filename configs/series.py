"""Series: a stochastic process of known law, and an electrocardiogram, in minutes on a CPU.

    python -m experiments.main --config=configs/series.py:process
    pip install -e '.[electrocardiogram]'
    python -m experiments.main --config=configs/series.py:electrocardiogram

process is configs/fields.py:series, a stationary process on a circle, whose spectrum and likelihood
are known. electrocardiogram has windows of 1.4 seconds of SciPy's record of one patient, tested on
the last fifth of every minute. Its picture has samples beside data.

electrocardiogram, 800 training steps on two busy cores, 9 minutes of processor time: samples show
normal and premature beats, as the data do. Test log-likelihood 1312 +- 23 nats. Power of 64
samples, over that of the 40 test windows, in four bands of frequencies: 1.05 +- 0.09, 0.89 +- 0.23,
1.24 +- 0.49 and 1.55 +- 0.62. As many training windows have 1.05, 0.77, 0.68 and 0.71: the samples
have too much of the highest frequencies, which have a thousandth of the power.
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
