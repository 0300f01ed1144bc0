from contextlib import closing

import golden
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import models
from configs import digits
from experiments.commands import import_checkpoint
from experiments.training.checkpoint import Checkpoints
from experiments.training.state import init_state, load
from models import torch_import


def tiny():
    config = digits.get_config()
    config.model.nf, config.model.ch_mult, config.model.attn_resolutions = 8, (1,), ()
    return config


def test_an_imported_run_is_one_that_the_other_modes_can_use(tmp_path, monkeypatch):
    """With a file that names the weights as we do; test_torch_import has the published names."""
    config = tiny()
    fresh = init_state(config, models.create(config))
    weights = {
        name: np.asarray(value) + 1 for name, value in flatten_dict(fresh.params, sep="/").items()
    }
    averages = [2 * value for value in weights.values()]
    checkpoint = {"model": weights, "ema": {"shadow_params": averages}, "step": 1234}
    monkeypatch.setattr(torch_import, "load_pth", lambda path: checkpoint)
    monkeypatch.setattr(torch_import, "score_sde", lambda state, _: unflatten_dict(state, sep="/"))
    import_checkpoint.run(config, tmp_path, tmp_path / "checkpoint.pth")

    with closing(Checkpoints(tmp_path)) as checkpoints:
        state = checkpoints.restore(like=fresh)
    assert state is not None
    assert int(state.step) == 1234
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 1), state.params, fresh.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh.opt_state)
    _, averaged, step = load(config, tmp_path)
    assert step == 1234
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * b), averaged, state.params)

    with pytest.raises(ValueError, match="holds checkpoints already"):
        import_checkpoint.run(config, tmp_path, tmp_path / "checkpoint.pth")


@pytest.mark.slow
def test_edm_weights_are_a_run_that_has_been_trained(tmp_path):
    arrays = golden.load("edm_ddpmpp_class_augment")
    config = digits.get_config()
    edm = golden.edm_config(arrays)
    with config.unlocked():
        config.model.update(edm.model)
        config.data.update(edm.data)
    np.savez(tmp_path / "edm.npz", **golden.edm_state_dict(arrays))
    import_checkpoint.run(config, tmp_path / "run", tmp_path / "edm.npz")

    _, averaged, step = load(config, tmp_path / "run")
    assert step == config.training.n_iters
    expected = torch_import.edm(golden.edm_state_dict(arrays), config)
    jax.tree.map(np.testing.assert_array_equal, averaged, expected)


def test_a_pickle_is_not_opened(tmp_path):
    with pytest.raises(ValueError, match=r"would run its own code: make an .npz file"):
        import_checkpoint.run(tiny(), tmp_path / "run", tmp_path / "edm.pkl")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_does_not_fit_leaves_nothing_behind(tmp_path, monkeypatch):
    empty = {"model": {}, "ema": {"shadow_params": []}, "step": 1}
    monkeypatch.setattr(torch_import, "load_pth", lambda path: empty)
    with pytest.raises(ValueError, match="does not fit this config: missing"):
        import_checkpoint.run(tiny(), tmp_path / "run", tmp_path / "checkpoint.pth")
    assert not (tmp_path / "run").exists()
