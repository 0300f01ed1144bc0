import errno
import json
import os
import re
import socket

import pytest

from configs import digits
from experiments.build.fields import configs
from experiments.runs import files
from experiments.runs import folder as folders


def test_a_folder_keeps_its_config_and_refuses_another(tmp_path):
    config = digits.get_config("vp_score_sde")
    configs.save(config, tmp_path)
    configs.check_same(config, tmp_path, configs.USE)
    other = digits.get_config("subvp")
    other.optim.lr = 1.0
    with pytest.raises(ValueError, match="belongs to another config") as error:
        configs.check_same(other, tmp_path, configs.USE)
    assert "optim.lr: there 0.002, here 1.0" in str(error.value)
    assert "training.sde: there 'vpsde', here 'subvpsde'" in str(error.value)
    assert "model.nf" not in str(error.value)
    configs.check_same(other, tmp_path / "new", configs.USE)


def test_fields_of_use_may_change(tmp_path):
    config = digits.get_config("vp_score_sde")
    configs.save(config, tmp_path)
    config.training.n_iters += 1
    config.sampling.n_steps = config.eval.batch_size = 7
    configs.check_same(config, tmp_path, configs.RESUME)
    configs.save(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["sampling"]["n_steps"] == 7


def test_a_run_older_than_a_field_has_its_default(tmp_path):
    config = digits.get_config("vp_score_sde")
    configs.save(config, tmp_path)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["model"]["parametrization"], old["mesh"]
    path.write_text(json.dumps(old))
    configs.check_same(config, tmp_path, configs.USE)
    config.model.parametrization = "v"
    with pytest.raises(ValueError, match="parametrization: there 'score_sde', here 'v'"):
        configs.check_same(config, tmp_path, configs.USE)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*none: give the --workdir"):
        folders.read_config(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        folders.read_config(tmp_path)
    for text, message in (("[1]", "is not the config of a run"), ('{"model"', "is damaged")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            folders.read_config(tmp_path)


def test_a_record_stays_the_same(tmp_path):
    path = tmp_path / "new" / "record.json"
    with pytest.raises(ValueError, match=r"record\.json is missing.*train first"):
        folders.read_record(path)
    for _ in range(2):
        folders.record(path, {"a": 1}, "it has changed")
    assert folders.read_record(path) == {"a": 1}
    with pytest.raises(ValueError, match="it has changed"):
        folders.record(path, {"a": 2}, "it has changed")


def test_changes_are_recorded_with_their_step(tmp_path):
    """Those of steps that were lost begin where the run goes on."""
    folders.record_changes(tmp_path, 10, {})
    assert not (tmp_path / folders.CHANGES).exists()
    folders.record_changes(tmp_path, 10, {"optim.lr": (0.2, 0.1)})
    folders.record_changes(tmp_path, 30, {"optim.lr": (0.1, 0.05), "optim.eps": (1.0, 2.0)})
    folders.record_changes(tmp_path, 20, {"optim.lr": (0.05, 0.01)})
    lines = files.read_lines(tmp_path / folders.CHANGES)
    assert [(line["step"], line["field"], line["after"]) for line in lines] == [
        *((10, "optim.lr", 0.1), (20, "optim.lr", 0.05)),
        *((20, "optim.eps", 2.0), (20, "optim.lr", 0.01)),
    ]


def test_one_command_at_a_time_trains_in_a_folder(tmp_path):
    with (
        folders.locked(tmp_path / "run"),
        pytest.raises(ValueError, match=r"another command is training in .*run: wait for it"),
        folders.locked(tmp_path / "run"),
    ):
        pass
    with folders.locked(tmp_path / "run"), folders.locked(tmp_path / "other"):
        pass


def test_the_second_command_is_told_the_process_and_the_host_of_the_first(tmp_path):
    """In the text that its process leaves there, which a third one does not change."""
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with folders.locked(tmp_path):
        for _ in range(2):
            with pytest.raises(ValueError, match=re.escape(holder)), folders.locked(tmp_path):
                pass
    with folders.locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == holder


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folders.fcntl, "flock", flock)
    with folders.locked(tmp_path):
        assert "cannot be used: [Errno 37] No locks available" in caplog.text


def test_nested_names_are_joined_by_dots():
    nested = {"a": {"b": 1, "c": {"d": ()}}, "e": 2}
    assert folders.flatten(nested) == {"a.b": 1, "a.c.d": (), "e": 2}
