import re

import pytest
from toys import MESH, options

from experiments.training.options import Average


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_iters": 0}, "config.training.n_iters is 0: it must be at least 1"),
        ({"log_freq": 0}, "log_freq is 0"),
        ({"max_skipped": 0}, "max_skipped is 0"),
        ({"steps_per_jit": 0}, "steps_per_jit is 0: it must be at least 1"),
        ({"quality_freq": -1}, "quality_freq is -1"),
        ({"stall_seconds": 0.0}, "stall_seconds is 0.0: it must be positive"),
        ({"stall_seconds": float("inf")}, "stall_seconds is inf"),
        ({"sinks": ("jsonl", "tensorbord")}, "did you mean 'tensorboard'"),
        (
            {"steps_per_jit": 4, "log_freq": 1, "eval_freq": 6, "quality_freq": 2},
            "log_freq = 1, .*eval_freq = 6, .*quality_freq = 2: with .*steps_per_jit = 4, give mul",
        ),
    ],
)
def test_impossible_numbers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        options(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 1.0}, "config.model.ema_rate is 1.0: it must be in [0, 1)"),
        ({"halflife": -1.0}, "config.model.ema_halflife is -1.0: it must be 0 or more"),
        ({"rampup": float("nan")}, "config.model.ema_rampup is nan"),
    ],
)
def test_an_impossible_average_is_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Average(**values)


def test_microbatches_and_devices_divide_the_batch():
    assert options(n_microbatches=2).batch_shape(MESH) == (2, 4)
    with pytest.raises(ValueError, match="batch_size is 8: it must be a multiple of 3"):
        options(n_microbatches=3).batch_shape(MESH)
