import jax
import pytest

from configs import fields
from experiments.build import tasks
from experiments.build.components import optimization
from experiments.training.state import abstract_state


@pytest.mark.parametrize("variant", fields.VARIANTS)
def test_every_variant_builds(variant):
    config = fields.get_config(variant)
    task = tasks.task(config)
    assert "spectrum" in task.reports
    assert jax.tree.leaves(abstract_state(task, 0, optimization.mesh(config)).params)
