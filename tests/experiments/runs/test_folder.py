import json
import resource

import pytest

from configs import digits
from experiments.runs import workdir


def test_a_folder_keeps_its_config_and_refuses_another(tmp_path):
    config = digits.get_config()
    workdir.claim(config, tmp_path)
    workdir.check_owner(config, tmp_path)
    other = digits.get_config("subvp")
    other.optim.lr = 1.0
    with pytest.raises(ValueError, match="belongs to another config") as error:
        workdir.check_owner(other, tmp_path)
    assert "optim.lr: there 0.002, here 1.0" in str(error.value)
    assert "training.sde: there 'vpsde', here 'subvpsde'" in str(error.value)
    assert "model.nf" not in str(error.value)


def test_what_a_run_may_change_is_free(tmp_path):
    config = digits.get_config()
    workdir.claim(config, tmp_path)
    config.training.n_iters += 1
    config.sampling.n_steps = 7
    config.eval.batch_size = 7
    workdir.check_owner(config, tmp_path)
    workdir.claim(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["sampling"]["n_steps"] == 7


def test_a_run_older_than_a_field_has_its_default(tmp_path):
    config = digits.get_config()
    workdir.claim(config, tmp_path)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["model"]["parametrization"], old["mesh"]
    path.write_text(json.dumps(old))
    workdir.check_owner(config, tmp_path)
    config.model.parametrization = "v"
    with pytest.raises(ValueError, match="parametrization: there 'score_sde', here 'v'"):
        workdir.check_owner(config, tmp_path)


def test_metrics_after_the_last_checkpoint_are_written_again(tmp_path):
    metrics = workdir.Metrics(tmp_path, 0)
    for step in (10, 20, 30):
        metrics.write(step, {"loss": float(step)})
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # a crash in the middle of a line
    metrics = workdir.Metrics(tmp_path, 20)
    metrics.write(30, {"loss": -1.0})
    metrics.close()
    lines = workdir.read_metrics(tmp_path)
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 10), (20, 20), (30, -1)]
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_metrics_wait_for_room(tmp_path, caplog):
    """No file grows longer than 40 bytes for a while, which is in the middle of a line."""
    metrics = workdir.Metrics(tmp_path, 0)
    metrics.write(1, {"loss": 1.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        metrics.write(2, {"loss": 2.0})
        metrics.write(3, {"loss": 3.0})
        for _ in range(20):
            metrics.write(3, {"seconds": 3.0}, "timing.jsonl")
        metrics.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [row["step"] for row in workdir.read_metrics(tmp_path)] == [1]
    assert "the last lines of metrics.jsonl cannot be written yet: [Errno 27]" in caplog.text
    metrics.write(4, {"loss": 4.0})
    metrics.close()
    assert [row["step"] for row in workdir.read_metrics(tmp_path)] == [1, 2, 3, 4]
