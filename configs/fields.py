"""Gaussian random fields of known spectrum in 1, 2 and 3 dimensions, in minutes on a CPU.

    python -m experiments.main --config=configs/fields.py:image

| variant   | data                          |
| --------- | ----------------------------- |
| series    | 64 steps                      |
| image     | 16 x 16 pixels                |
| volume    | 8 x 8 x 8 voxels              |
| by_length | 16 x 16 pixels, conditional on the correlation length, one of three |
| by_parameters | 16 x 16 pixels, conditional on the correlation length and the standard deviation |

A series is a stationary process on a circle: an oscillator with critical damping, driven by white
noise. At the end the spectrum of samples is printed over the closed form, by bands of frequencies,
and the test set's bits/dim by the network and by the closed form
(experiments/data/sources/field.py).

Measured on two busy cores: the power of samples over the closed form in the four bands (+- 0.01 to
0.025), the test set's bits/dim by the network and by the closed form, and the processor time of
all, of which the likelihood is a third:

| variant       | steps | power                  | bits/dim       | exact | minutes |
| ------------- | ----- | ---------------------- | -------------- | ----- | ------- |
| series        | 1200  | 1.00, 1.00, 0.97, 0.99 | 0.853 +- 0.013 | 0.849 | 4       |
| image         | 500   | 1.02, 1.02, 0.95, 0.99 | 0.847 +- 0.005 | 0.843 | 6       |
| volume        | 300   | 1.03, 1.00, 0.91, 0.79 | 1.091 +- 0.004 | 1.063 | 24      |
| by_length     | 500   | see below              | 0.778 +- 0.029 | 0.766 | 8       |
| by_parameters | 500   | 1.10, 1.01, 0.95, 0.99 | 0.799 +- 0.034 | 0.780 | 7       |

volume's likelihood takes two thirds of its time: XLA's convolutions along three sides are slow on a
CPU. The power of by_length is 1.07, 0.95, 0.98, 0.99 for the correlation length 0.75, and 1.03,
1.07, 0.92, 0.96 for 1.5. For 3 it is 1.18, 0.96, 0.79, 0.84: there the exact fields have 93% of
their power in the first band, and 1.3% in the last two.

The fields go on at the other side, and so does the network (model.periodic). With zeros across the
edge samples had a seam: the power of series was 1.01, 1.08, 1.15 and 1.44 times the exact one. The
sampler matters as much. With the exact score, 18 steps of Heun's method leave 27% too much power at
high frequencies, 32 leave 7%, and 64, of 127 evaluations, 1%. So do 40 of unipc, in 40 evaluations.
"""

from configs import default
from configs.default import Part
from configs.published import EDM_METHOD

BASE: Part = {
    **EDM_METHOD,
    "data.dataset": "field",
    "training.sde": "vesde",
    "training.batch_size": 64,
    "training.n_iters": 500,
    "training.log_freq": 100,
    "training.snapshot_freq": 100_000,
    "training.snapshot_freq_for_preemption": 500,
    "training.eval_freq": 500,
    "training.at_end": ("likelihood", "spectrum", "pictures"),
    "objective.stratified": True,
    "noise_density.std": 1.6,
    "sampling.n_samples": 256,
    "sampling.batch_size": 256,
    "sampling.method": "unipc",
    "sampling.n_steps": 40,
    "eval.batch_size": 500,
    "eval.rtol": 1e-3,
    "eval.atol": 1e-3,
    "model.nf": 16,
    "model.ch_mult": (1, 2),
    "model.num_res_blocks": 1,
    "model.attn_resolutions": (),
    "model.resblock_type": "biggan",
    "model.skip_rescale": True,
    "model.init_scale": 0.0,
    "model.embedding_type": "positional",
    "model.progressive_input": "none",
    "model.scale_by_sigma": False,
    "model.fir": False,
    "model.periodic": True,
    "model.dropout": 0.0,
    "model.sigma_min": 0.01,
    "model.sigma_max": 80.0,
    "model.sigma_data": 1.0,
    "model.ema_rate": 0.995,
    "optim.lr": 2e-3,
    "optim.warmup": 100,
}
VARIANTS: dict[str, tuple[Part, ...]] = {
    "series": ({"data.shape": (64, 1), "training.n_iters": 1200},),
    "image": ({"data.shape": (16, 16, 1)},),
    "volume": ({"data.shape": (8, 8, 8, 1), "training.batch_size": 16, "training.n_iters": 300},),
    "by_length": (
        {
            "data.dataset": "field_by_length",
            "data.shape": (16, 16, 1),
            "data.num_classes": 3,
            "model.class_conditional": True,
        },
    ),
    "by_parameters": (
        {
            "data.dataset": "field_by_parameters",
            "data.shape": (16, 16, 1),
            "model.vector_dim": 2,
        },
    ),
}


def get_config(variant: str = "image") -> default.Config:
    """The config of a variant in the table above."""
    return default.experiment(BASE, VARIANTS, variant)
