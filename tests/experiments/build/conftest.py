"""The run of a model of points, whose weights are random."""

import pytest
import saved_runs

from configs import points


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """(Its folder, its weights); the checkpoints are of steps 2 and 5."""
    config, folder = points.get_config("moons"), tmp_path_factory.mktemp("run")
    config.model.nf, config.model.num_res_blocks = 8, 1
    return folder, saved_runs.save(config, folder, steps=(2, 5))
