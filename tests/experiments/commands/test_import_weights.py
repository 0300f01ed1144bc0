import golden
import jax
import numpy as np
import pytest
import torch_writer
import weights
from flax.traverse_util import unflatten_dict

import experiments
from configs import cifar10, digits
from experiments.build import restored
from experiments.build.components import optimization
from experiments.build.fields import configs
from experiments.build.published import Published, open_
from experiments.commands import import_weights
from experiments.commands.request import Request
from experiments.runs import files
from experiments.runs import folder as folders
from experiments.training import imported
from experiments.training.state import abstract_state
from models import published, torch_import


def tiny():
    config = digits.get_config("vp_score_sde")
    config.model.update(nf=8, ch_mult=(1,), attn_resolutions=(), num_res_blocks=0)
    return config


def write_checkpoint(path, config, step=1234):
    """A random checkpoint of score_sde for a config; its averages are twice its weights."""
    form, bare = published.FORMATS["score_sde"], published.skeleton(config)
    params = weights.drawn(unflatten_dict(dict(bare.shapes)))
    arrays = published.base.extract(params, form.table(bare))
    content = {
        "model": {name: torch_writer.tensor(value) for name, value in arrays.items()},
        "ema": {"shadow_params": [torch_writer.tensor(2 * value) for value in arrays.values()]},
        "step": step,
    }
    torch_writer.save_zip(path, content)
    return params


@pytest.mark.thorough
def test_an_imported_run_is_one_that_other_modes_and_training_can_use(tmp_path):
    config, folder, path = tiny(), tmp_path / "run", tmp_path / "checkpoint.pth"
    params = write_checkpoint(path, config)
    request = Request(config, folder, str(path))
    folder.mkdir()
    with folders.locked(folder), pytest.raises(ValueError, match="another command is training in"):
        import_weights.run(request)
    import_weights.run(request)

    assert configs.load(folder) == config
    averaged, step = restored.weights(config, folder)
    assert step == 1234
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * b), averaged, params)
    task = restored.skeleton(config)
    state = imported.start(task, folder, abstract_state(task, 0, optimization.mesh(config)))
    assert state is not None
    assert int(state.step) == 1234
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    jax.tree.map(np.testing.assert_array_equal, state.ema_params, averaged)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, task.optimizer.init(params))
    record = files.read_json(folder / "published.json")
    assert (record["format"], record["license"]) == ("score_sde", "not stated")
    assert "not stated" in (folder / imported.CARD).read_text()

    with pytest.raises(ValueError, match="holds weights already"):
        import_weights.run(request)


@pytest.mark.thorough
def test_the_card_of_a_published_model_gives_its_config(tmp_path, caplog):
    """The file is too small for the card's network, which the error says."""
    path = tmp_path / "vp" / "cifar10_ddpmpp_continuous" / "checkpoint_26.pth"
    path.parent.mkdir(parents=True)
    write_checkpoint(path, tiny())
    model = open_(path)
    assert model.config() == cifar10.get_config("vp_ddpmpp_continuous")
    assert model.record()["figure"] == "FID 2.55"
    with pytest.raises(ValueError, match=r"does not fit this config: missing \['all_modules.1"):
        experiments.load(path)


@pytest.mark.thorough
def test_a_published_file_is_loaded_without_a_run(tmp_path, monkeypatch):
    config, path = tiny(), tmp_path / "checkpoint.pth"
    params = write_checkpoint(path, config)
    with pytest.raises(ValueError, match=r"does not say what its network is: give --config=FILE"):
        experiments.load(path)
    monkeypatch.setattr(Published, "config", lambda _: tiny())
    model = experiments.load(path, overrides={"sampling.n_steps": 70})
    assert (model.sampler.n_steps, model.step) == (70, 1234)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * b), model.params, params)


@pytest.mark.slow
def test_edm_weights_are_a_run_that_has_been_trained(tmp_path):
    arrays = golden.load("edm_ddpmpp_class_augment")
    config = digits.get_config("vp_score_sde")
    edm = golden.edm_config(arrays)
    with config.unlocked():
        config.model.update(edm.model)
        config.data.update(edm.data)
    np.savez(tmp_path / "edm.npz", **golden.edm_state_dict(arrays))
    import_weights.run(Request(config, tmp_path / "run", str(tmp_path / "edm.npz")))

    averaged, step = restored.weights(config, tmp_path / "run")
    assert step == config.training.n_iters
    expected = torch_import.edm(golden.edm_state_dict(arrays), config)
    jax.tree.map(np.testing.assert_array_equal, averaged, expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "--mode=import needs --checkpoint: a published file"),
        ("edm.pkl", r"asks for posix\.system, which runs programs"),
        ("checkpoint.pth", "does not fit this config: missing"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_leaves_nothing_behind(tmp_path, name, message):
    write_checkpoint(tmp_path / "checkpoint.pth", tiny())
    (tmp_path / "edm.pkl").write_bytes(b"\x80\x02cposix\nsystem\n(S'true'\ntR.")
    config = tiny()
    config.model.num_res_blocks = 1
    name = name and str(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        import_weights.run(Request(config, tmp_path / "run", name))
    assert not (tmp_path / "run").exists()
