"""The application around sde_lib, models and samplers: training, sampling, evaluation, studies.

    import experiments
    model = experiments.load("runs/digits")      # a Pipeline

Imports point one way: main -> commands, studies -> build -> tasks -> evaluation -> pipeline ->
training -> data -> runs -> (models, samplers -> sde_lib).
"""

from typing import Any


def load(
    source: Any,
    step: int | None = None,
    overrides: dict[str, Any] | None = None,
    ema_length: float | None = None,
) -> Any:
    """A trained model as one object, an experiments.pipeline.pipeline.Pipeline.

    Args:
        source: the folder of a run.
        step: of the checkpoint; None: the last.
        overrides: values of config fields by their full names, such as {"sampling.method": "edm"}.
        ema_length: of the average of the weights, as a share of the training, of a run with
            config.model.ema_profile = "power"; None: the first of its config.model.ema_lengths.

    Raises:
        ValueError: there is no run, or one of a model that is no score model; an override that is
            unknown, or that a trained model cannot have.
    """
    from experiments.build import pipelines  # Python starts fast without

    return pipelines.load(source, step, overrides, ema_length)
