import dataclasses

import pytest

from experiments.studies.guidance.options import Options

OPTIONS = Options((1.0,), ("constant",), ("heun",), (19,), n_samples=20, n_seeds=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": ()}, "config.study.guidance.weights is empty"),
        ({"weights": (-1.0,)}, "config.study.guidance.weights is -1.0: it must be at least 0"),
        ({"schedules": ("cosin",)}, "schedules 'cosin' is unknown: did you mean 'cosine'"),
        ({"n_samples": 1}, "config.study.guidance.n_samples is 1: it must be at least 2"),
        ({"n_seeds": 1}, "config.study.guidance.n_seeds is 1: it must be at least 2"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(OPTIONS, **changes)
