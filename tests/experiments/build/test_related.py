from pathlib import Path

import pytest

from configs import points
from experiments.build import related


def test_a_config_is_that_of_the_run_on_our_devices(run):
    ours = points.get_config("swiss_roll")
    ours.mesh.fsdp = 2
    theirs = related.config(ours, run[0], "config.sampling.low_res", "score")
    assert (theirs.data.dataset, theirs.mesh.fsdp) == ("moons", 2)
    with pytest.raises(ValueError, match=r"config.x, .* the model 'mlp': that is no classifier"):
        related.config(ours, run[0], "config.x", "classifier")
    with pytest.raises(ValueError, match=r"no folder /moved, which config.x names: train that run"):
        related.config(ours, Path("/moved"), "config.x", "classifier")


def test_a_folder_without_a_run_is_named_with_its_field(tmp_path):
    with pytest.raises(ValueError, match=r"no config.json in .*, which config.x names: train that"):
        related.config(points.get_config("swiss_roll"), tmp_path, "config.x", "score")
