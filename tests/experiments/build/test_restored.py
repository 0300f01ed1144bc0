import jax
import numpy as np
import pytest

from configs import digits
from experiments.build import related, restored
from experiments.build.components import specs
from experiments.build.fields import configs


def test_the_weights_are_of_the_last_step_or_of_one_that_is_named(run):
    folder, params = run
    config = configs.load(folder)
    for step, expected in ((None, 5), (2, 2)):
        found, at = restored.weights(config, folder, step)
        assert at == expected
        jax.tree.map(np.testing.assert_array_equal, found, params)
    with pytest.raises(ValueError, match=r"no checkpoint of step 3: it has \[2, 5\]"):
        restored.weights(config, folder, 3)


def test_weights_need_a_trained_run(tmp_path):
    with pytest.raises(ValueError, match="train first"):
        restored.steps(tmp_path)
    message = "which config.x names, holds no checkpoints: train that run first, or give a trained"
    with pytest.raises(ValueError, match=message):
        restored.weights(digits.get_config(), tmp_path, field="config.x")


@pytest.mark.parametrize("variant", ["vp", "vdm", "vlb", "classifier"])
def test_a_skeleton_has_the_shapes_of_the_task(variant):
    """Without other runs, and with the learned schedule."""
    config = digits.get_config(variant)
    config.model.update(nf=4, ch_mult=(1,), attn_resolutions=())
    params = jax.eval_shape(restored.skeleton(config).init, jax.random.key(0))
    assert ("schedule" in params) == (variant == "vdm")
    assert related.shape(config) == specs.data_shape(config) == (8, 8, 1)
