import pytest

from configs import tables
from experiments.build import data, tasks


@pytest.mark.parametrize("variant", tables.VARIANTS)
def test_every_table_has_a_task_with_baselines(variant):
    config = tables.get_config(variant)
    task, dataset = tasks.task(config), data.images(config)
    assert task.shape == dataset.train.shape[1:]
    assert {"likelihood", "baselines", "pictures"} <= task.reports.keys()
    assert task.scaling.standardized
    assert dataset.n_classes in (0, config.data.num_classes)
