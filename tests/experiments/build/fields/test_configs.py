import json
from pathlib import Path

import pytest

from configs import digits, points
from experiments.build.fields import configs


def saved(folder, **changes):
    config = digits.get_config("vp_score_sde")
    config.update_from_flattened_dict({n.replace("__", "."): v for n, v in changes.items()})
    configs.save(config, folder)
    return config


def test_a_config_is_what_was_saved(tmp_path):
    config = digits.get_config("edm")
    config.sampling.labels = (3, 1)
    configs.save(config, tmp_path)
    loaded = configs.load(tmp_path)
    assert configs.fields(loaded) == configs.fields(config)
    assert loaded.sampling.labels == (3, 1)
    assert json.loads((tmp_path / "config.json").read_text())["version"] == configs.VERSION


def test_fields_that_are_younger_than_the_run_have_their_defaults(tmp_path):
    saved(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["detect"], values["sampling"]["grid"]
    path.write_text(json.dumps(values))
    loaded = configs.load(tmp_path)
    assert loaded.detect.n_steps == digits.get_config("vp_score_sde").detect.n_steps
    assert loaded.sampling.grid is None


def test_a_run_of_a_later_version_is_refused(tmp_path):
    saved(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text()) | {"version": 99}
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="its config has version 99, this program knows 3"):
        configs.load(tmp_path)


def test_runs_that_refer_to_each_other_can_be_moved_together(tmp_path, monkeypatch):
    before, after = tmp_path / "before", tmp_path / "after"
    (before / "classifier").mkdir(parents=True)
    saved(before / "run", guidance__classifier__run=str(before / "classifier"))
    monkeypatch.chdir(tmp_path)
    started = {"training__init_from": "before/run"}
    saved(before / "other", guidance__classifier__run="before/classifier", **started)
    before.rename(after)
    assert Path(configs.load(after / "other").training.init_from).resolve() == after / "run"
    assert configs.load(after / "run").guidance.classifier.run == str(before / "classifier")
    moved = configs.load(after / "other").guidance.classifier.run
    assert (tmp_path / moved).resolve() == after / "classifier"


def test_another_config_is_refused_with_the_fields_that_differ(tmp_path):
    config = saved(tmp_path)
    configs.check_same(config, tmp_path, ())
    configs.check_same(config, tmp_path / "empty", ())
    config.sampling.n_steps, config.optim.lr = 7, 0.5
    configs.check_same(config, tmp_path, ("sampling", "optim.lr"))
    with pytest.raises(ValueError, match="belongs to another config") as error:
        configs.check_same(config, tmp_path, configs.USE)
    assert "  optim.lr: there 0.002, here 0.5\n" in str(error.value)
    assert "n_steps" not in str(error.value)
    with pytest.raises(ValueError, match=r"data.dataset: there 'digits', here 'moons'"):
        configs.check_same(points.get_config("moons"), tmp_path, ())


def test_a_run_may_go_on_with_other_numbers_of_the_optimizer(tmp_path):
    """They are named, with their values before and after."""
    config = saved(tmp_path)
    assert configs.changes(config, tmp_path) == {}
    assert configs.changes(config, tmp_path / "new") == {}
    config.optim.update(lr=1e-4, grad_clip=0.5, beta2=0.99, eps=1e-6, weight_decay=0.1, warmup=7)
    config.optim.nan_to_num, config.model.ema_rate = True, 0.9
    configs.check_same(config, tmp_path, configs.RESUME)
    found = configs.changes(config, tmp_path)
    assert found["optim.lr"] == (2e-3, 1e-4)
    assert found["model.ema_rate"] == (0.999, 0.9)
    assert len(found) == 8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.nf", 64),
        ("model.dropout", 0.1),
        ("training.batch_size", 32),
        ("training.sde", "subvpsde"),
        ("weighting.name", "edm"),
        ("optim.optimizer", "other"),
        ("optim.freeze", ("Conv_0/.*",)),
        ("training.init_from", "runs/other"),
        ("data.test_fraction", 0.2),
        ("data.image_size", 16),
        ("seed", 1),
    ],
)
def test_what_makes_another_training_may_not_change(tmp_path, field, value):
    config = saved(tmp_path)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=f"  {field}: there "):
        configs.check_same(config, tmp_path, configs.RESUME)


@pytest.mark.parametrize(
    "field", ["data.path", "data.autoencoder", "model.pretrained", "training.init_from"]
)
def test_other_runs_and_files_may_be_elsewhere(tmp_path, field):
    """Whether there is one may not change."""
    config = saved(tmp_path)
    config.update_from_flattened_dict({field: "/before"})
    configs.save(config, tmp_path)
    config.update_from_flattened_dict({field: "/after"})
    configs.check_same(config, tmp_path, configs.RESUME)
    configs.check_same(config, tmp_path, configs.USE)
    configs.check_overrides([field], tmp_path)
    config.update_from_flattened_dict({field: ""})
    if field != "data.path":
        with pytest.raises(ValueError, match=f"{field}: there '/before', here ''"):
            configs.check_same(config, tmp_path, configs.USE)


def test_only_options_of_use_can_be_overridden(tmp_path):
    configs.check_overrides(("sampling.n_steps", "guidance.classifier.run", "seed"), tmp_path)
    configs.check_overrides(("training.n_iters", "training.snapshot_freq"), tmp_path)  # no effect
    with pytest.raises(ValueError, match=r"config.optim.lr: the model in .* was trained"):
        configs.check_overrides(("optim.lr", "sampling.n_steps"), tmp_path)


def test_differences_are_from_the_defaults_of_all_configs():
    config = points.get_config("moons")
    found = {name: (value, default) for name, value, default in configs.differences(config, ())}
    assert found["data.dataset"] == ("moons", "")
    assert found["model.fourier_scale"] == (1.0, None)
    assert "seed" not in found
    assert "seed" in {name for name, *_ in configs.differences(config, ("seed",))}
