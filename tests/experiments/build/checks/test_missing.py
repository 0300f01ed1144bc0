import pytest
from tiny_configs import digits_config, points_config

from experiments.build import tasks
from experiments.build.checks.missing import missing
from experiments.build.components import specs
from experiments.build.fields import sections


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data.missing": "masks"}, "config.data.missing 'masks' is unknown"),
        ({"data.missing": "", "data.hidden_fraction": 0.2}, "nothing without config.data.missing"),
        ({"data.hidden_fraction": 1.5}, r"config.data.hidden_fraction is 1.5: .*\[0, 1\]"),
        ({"data.autoencoder": "run"}, "data.autoencoder is 'run', whose network takes complete"),
        ({"data.augment": 0.1}, "config.data.augment is 0.1, which moves values between pixels"),
        ({"model.low_res_size": 4}, "config.model.low_res_size is 4, which needs means of pixels"),
        ({"image_condition.name": "grey"}, "image_condition.name is 'grey', which makes images"),
        ({"eval.enable_bound": True}, "config.eval.enable_bound is True, which is of complete"),
        ({"objective.name": "vdm"}, "objective.name is 'vdm', which is for complete data: .*'den"),
        ({"objective.name": "sliced"}, "objective.name is 'sliced', which is for complete data"),
        ({"training.sde": "cld"}, "config.training.sde is 'cld', which is for complete data"),
        ({"sampling.variance": "analytic"}, "variance is 'analytic', .* take 'posterior'"),
    ],
    ids=str,
)
def test_what_needs_complete_data_is_refused(fields, message):
    config = digits_config()
    for field, value in ({"data.missing": "mask"} | fields).items():
        sections.put(config, field, value)
    with pytest.raises(ValueError, match=message):
        missing(config)


def test_only_score_models_have_missing_values():
    config = digits_config()
    config.data.missing = "mask"
    config.model.update(name="wideresnet", label_dropout=0.0)
    with pytest.raises(ValueError, match=r"config.data.missing is of score models, not of 'wide"):
        tasks.task(config)


def test_the_task_hides_a_fraction():
    config = points_config()
    assert not specs.scaling(config).missing
    config.data.update(missing="mask", hidden_fraction=0.2)
    task = tasks.task(config)
    assert task.scaling.missing
    assert task.model.missing
    assert task.hidden_fraction == 0.2
