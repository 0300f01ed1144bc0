import jax
import pytest

from configs import photographs
from experiments.build import tasks
from experiments.build.components import optimization
from experiments.training.state import abstract_state


@pytest.mark.parametrize("variant", photographs.VARIANTS)
def test_every_variant_builds(variant):
    config = photographs.get_config(variant)
    task = tasks.task(config)
    assert task.shape == (48, 64, 3)
    assert jax.tree.leaves(abstract_state(task, 0, optimization.mesh(config)).params)
