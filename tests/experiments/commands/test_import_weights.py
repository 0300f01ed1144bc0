from contextlib import closing

import golden
import jax
import numpy as np
import pytest
import torch_writer
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import digits
from experiments.build import components, configs, related
from experiments.commands import import_weights
from experiments.commands.request import Request
from experiments.runs import folder as folders
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import abstract_state, init_state
from models import torch_import


def tiny():
    config = digits.get_config("vp_score_sde")
    config.model.update(nf=8, ch_mult=(1,), attn_resolutions=(), num_res_blocks=0)
    return config


def test_an_imported_run_is_one_that_other_modes_and_training_can_use(tmp_path, monkeypatch):
    """The file names the weights as we do; tests of torch_import have the published names."""
    config = tiny()
    objective = related.skeleton(config)
    abstract = abstract_state(objective, config.seed, components.mesh(config))
    fresh = init_state(objective, config.seed, abstract)
    flat = flatten_dict(fresh.params, sep="/")
    weights = {name: np.asarray(value) + 1 for name, value in flat.items()}
    averages = [2 * value for value in weights.values()]
    checkpoint = {"model": weights, "ema": {"shadow_params": averages}, "step": 1234}
    monkeypatch.setattr(torch_import, "load_pth", lambda path: checkpoint)
    monkeypatch.setattr(torch_import, "score_sde", lambda state, _: unflatten_dict(state, sep="/"))
    request = Request(config, tmp_path, "checkpoint.pth")
    with (
        folders.locked(tmp_path),
        pytest.raises(ValueError, match="another command is training in"),
    ):
        import_weights.run(request)
    import_weights.run(request)

    assert configs.load(tmp_path) == config
    with closing(Checkpoints(tmp_path)) as checkpoints:
        state = checkpoints.restore(like=fresh)
    assert state is not None
    assert int(state.step) == 1234
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 1), state.params, fresh.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh.opt_state)
    averaged, step = related.weights(config, tmp_path)
    assert step == 1234
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * b), averaged, state.params)

    with pytest.raises(ValueError, match="holds checkpoints already"):
        import_weights.run(request)


@pytest.mark.slow
def test_edm_weights_are_a_run_that_has_been_trained(tmp_path):
    arrays = golden.load("edm_ddpmpp_class_augment")
    config = digits.get_config("vp_score_sde")
    edm = golden.edm_config(arrays)
    with config.unlocked():
        config.model.update(edm.model)
        config.data.update(edm.data)
    ema = torch_writer.network(golden.edm_state_dict(arrays), buffers=("freqs",))
    content = torch_writer.pickled({"ema": ema}, 4, nested=True)[0]
    (tmp_path / "edm.pkl").write_bytes(content)
    import_weights.run(Request(config, tmp_path / "run", str(tmp_path / "edm.pkl")))

    averaged, step = related.weights(config, tmp_path / "run")
    assert step == config.training.n_iters
    expected = torch_import.edm(golden.edm_state_dict(arrays), config)
    jax.tree.map(np.testing.assert_array_equal, averaged, expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "--mode=import needs --checkpoint=FILE.pth"),
        ("edm.pkl", r"asks for posix\.system, which runs programs"),
        ("checkpoint.pth", "does not fit this config: missing"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_leaves_nothing_behind(
    tmp_path, monkeypatch, name, message
):
    empty = {"model": {}, "ema": {"shadow_params": []}, "step": 1}
    monkeypatch.setattr(torch_import, "load_pth", lambda path: empty)
    (tmp_path / "edm.pkl").write_bytes(b"\x80\x02cposix\nsystem\n(S'true'\ntR.")
    name = name and str(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        import_weights.run(Request(tiny(), tmp_path / "run", name))
    assert not (tmp_path / "run").exists()
