import logging

import numpy as np
import pytest
from toys import Toy

import models
from configs import default, points
from experiments import command_line, main
from experiments.build import data, tasks
from experiments.build.fields import configs, sections
from experiments.build.inspection import advice
from experiments.commands import train
from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.runs import charts

STD = 3.0


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Gaussian points of a known spread, and a task without a network."""
    x = (STD * np.random.RandomState(0).randn(600, 2)).astype(np.float32)
    monkeypatch.setattr(data, "images", lambda config: Dataset(x, x[:50], None))
    monkeypatch.setitem(tasks.TASKS, "toy", lambda config, mesh: Toy())
    monkeypatch.setattr(charts, "save_loss_curve", lambda path, *_: path)


def config_of(**fields):
    config = points.get_config("moons")
    for field, value in {"training.sde": "vesde", **fields}.items():
        sections.put(config, field.replace("__", "."), value)
    return config


EDM = {"model__parametrization": "edm", "noise_density__name": "log_normal"}


@pytest.mark.parametrize(
    ("fields", "used"),
    [
        ({}, {"model.sigma_max", "model.sigma_min"}),
        ({"training__sde": "vpsde"}, set()),
        (
            {"training__sde": "edm", **EDM},
            {"model.sigma_data", "noise_density.mean", "noise_density.std"},
        ),
        ({"training__sde": "vpsde", "weighting__name": "edm"}, {"model.sigma_data"}),
    ],
    ids=("ve", "vp", "edm", "vp with the weighting of edm"),  # sets are in no order
)
def test_auto_sets_the_fields_that_the_config_s_components_use(fields, used, tmp_path):
    config = config_of(data__auto=True, **fields)
    config.training.sde = fields.get("training__sde", "vesde")
    made, found = advice.settled(config, tmp_path / "new")
    changed = {name for name in configs.ADVISED if sections.is_set(made, name)}
    assert changed == used
    assert found is not None
    assert not any(sections.is_set(config, name) for name in configs.ADVISED)
    if "model.sigma_data" in used:
        assert made.model.sigma_data == pytest.approx(STD, rel=0.1)


def test_auto_leaves_a_field_that_was_set(tmp_path, caplog):
    config = config_of(data__auto=True, model__sigma_max=77.0)
    with caplog.at_level(logging.INFO):
        made, _ = advice.settled(config, tmp_path)
    assert made.model.sigma_max == 77
    assert sections.is_set(made, "model.sigma_min")
    assert "config.model.sigma_max stays 77.0; the data advise" in caplog.text
    assert "config.model.sigma_min = " in caplog.text


def test_without_auto_nothing_is_loaded_or_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "images", None)
    config = config_of()
    assert advice.settled(config, tmp_path) == (config, None)


def toy(**fields):
    config = config_of(model__name="toy", **fields)
    config.optim.warmup = 0
    config.training.update(n_iters=2, batch_size=8, log_freq=1, at_end=(), sinks=("jsonl",))
    return config


def test_a_run_records_the_numbers_and_goes_on_with_them(tmp_path, monkeypatch):
    """Other data of the same digest would advise others; a config without auto is another."""
    train.run(Request(toy(data__auto=True), tmp_path))
    kept = configs.load(tmp_path).model
    assert kept.sigma_max > 3 * STD
    monkeypatch.setattr(advice, "measured", None)
    longer = toy(data__auto=True)
    longer.training.n_iters = 4
    train.run(Request(longer, tmp_path))
    assert configs.load(tmp_path).model == kept
    with pytest.raises(ValueError, match=r"data.auto: there True, here False"):
        train.run(Request(toy(), tmp_path))
    other = toy(data__auto=True, model__sigma_max=5.0)
    with pytest.raises(ValueError, match=r"model.sigma_max: there .*, here 5.0"):
        train.run(Request(other, tmp_path))


def test_other_modes_find_the_numbers_in_the_run(tmp_path):
    made = config_of(data__auto=True, model__sigma_max=9.0)
    configs.save(made, tmp_path)
    file = f"--config={default.__file__.replace('default.py', 'points.py')}:moons"
    flags = f"--workdir={tmp_path}", "--mode=sample", "--config.training.sde=vesde"
    given = command_line.parse(["main", file, *flags, "--config.data.auto=True"], main.COMMANDS)
    assert command_line.request(given).config.model.sigma_max == 9
    given = command_line.parse(["main", file, *flags], main.COMMANDS)
    with pytest.raises(ValueError, match=r"data\.auto"):
        command_line.request(given)


@pytest.mark.parametrize(
    ("fields", "warnings"),
    [
        ({"model__sigma_max": 2.0}, ["sigma_max is 2, but the largest distance among 256"]),
        ({}, []),
        (
            {"training__sde": "edm", **EDM},
            ["sigma_data is 0.5, but the standard deviation of the training data is"],
        ),
        ({"training__sde": "edm", **EDM, "model__sigma_data": 2.0}, []),
        ({"training__sde": "vpsde"}, []),
    ],
    ids=str,
)
def test_numbers_far_from_the_data_are_warned_of(fields, warnings, caplog):
    config = config_of(**fields)
    config.training.sde = fields.get("training__sde", "vesde")
    advice.warn(config, data.images(config).train)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(warnings)
    for message, expected in zip(messages, warnings, strict=True):
        assert expected in message
        assert "\n" not in message


def test_only_a_new_training_measures_and_warns(tmp_path, caplog):
    train.run(Request(toy(model__sigma_max=2.0), tmp_path))
    assert "config.model.sigma_max is 2" in caplog.text
    caplog.clear()
    train.run(Request(toy(model__sigma_max=2.0), tmp_path))
    assert "sigma_max" not in caplog.text


def test_the_table_has_advice_for_every_number():
    config = config_of()
    rows = advice.table(config, advice.measured(config, data.images(config)))
    assert {row["field"] for row in rows} == {*configs.ADVISED, "training.sde", "model.ch_mult"}
    by_field = {row["field"]: row for row in rows}
    assert by_field["model.sigma_max"]["config"] == 50
    assert by_field["model.sigma_data"]["config"] is None
    assert "not used by this config" in by_field["model.sigma_data"]["reason"]
    assert all(row["reason"] for row in rows)


def test_the_density_s_own_default_is_shown_for_none():
    config = config_of(training__sde="edm", **EDM)
    rows = advice.table(config, advice.measured(config, data.images(config)))
    shown = {row["field"]: row["config"] for row in rows}
    assert (shown["noise_density.mean"], shown["noise_density.std"]) == (-1.2, 1.2)


def test_floats_are_measured_as_they_are_standardised(tmp_path):
    config = config_of(data__dataset="arrays", training__sde="edm", **EDM)
    config.data.dtype, config.data.shape = "float", (3,)
    x = np.random.RandomState(0).randn(500, 3) * [1e-3, 1, 1e3] + [1, 0, -5e3]
    found = advice.measured(config, Dataset(x.astype(np.float32), x[:9], None))
    assert found.std == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(found.channel_stds, 1, rtol=1e-3)
    x[:, 1] = 4
    with pytest.raises(ValueError, match="constant in channel or column 1: leave it out"):
        advice.measured(config, Dataset(x.astype(np.float32), x[:9], None))


def test_equal_samples_are_refused():
    found = Dataset(np.ones((20, 2), np.float32), np.ones((20, 2), np.float32), None)
    config = config_of()
    with pytest.raises(ValueError, match="20 training samples that were compared are equal"):
        advice.advise(config, advice.measured(config, found))
    assert models.kind(config) == "score"
    advice.warn(config, found.train)  # says nothing
