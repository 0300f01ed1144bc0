import jax
import pytest

from configs import fields, series
from experiments.build import tasks
from experiments.build.components import optimization
from experiments.training.state import abstract_state


@pytest.mark.thorough
@pytest.mark.parametrize("variant", series.VARIANTS)
def test_every_variant_builds(variant):
    config = series.get_config(variant)
    task = tasks.task(config)
    assert "spectrum" in config.training.at_end
    assert jax.tree.leaves(abstract_state(task, 0, optimization.mesh(config)).params)


def test_the_process_is_the_field_on_one_side():
    assert series.get_config("process").to_dict() == fields.get_config("series").to_dict()
