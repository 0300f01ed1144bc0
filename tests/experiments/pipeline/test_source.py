import dataclasses
import re

import jax
import numpy as np
import pytest
from tiny_configs import changed

from configs import digits, points
from experiments.build import pipelines, tasks
from experiments.build.components import optimization
from experiments.commands import train
from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.pipeline import draw
from experiments.pipeline.conditions import SOURCE, Source
from experiments.training.state import abstract_state
from experiments.training.step import compiled, make_batches, make_program
from sde_lib.batch import sample_keys

POINTS = np.arange(14.0, dtype=np.float32).reshape(7, 2)
KEYS = sample_keys(jax.random.key(0), 400)
TINY = {"sampling.n_steps": 3, "model.nf": 8}


def unpaired(**changes):
    data = Dataset(POINTS, -POINTS[:3], None)
    return dataclasses.replace(Source((2,), Scaling(None), "samples", lambda: data), **changes)


@pytest.mark.thorough
def test_training_draws_from_all_rows_of_a_source_of_another_size():
    x = np.zeros((400, 2), np.float32)
    source = unpaired()
    rows = np.asarray(source.complete(source.shared, KEYS, x)[SOURCE])
    counts = np.asarray([(rows == row).all(1).sum() for row in POINTS])
    assert counts.sum() == 400
    assert (abs(counts - 400 / 7) < 4 * np.sqrt(400 / 7)).all()
    other = source.complete(source.shared, KEYS[5:6], x[:1])[SOURCE]
    np.testing.assert_array_equal(other, rows[5:6])


def test_samples_start_from_the_test_set_of_the_source_or_from_those_given():
    own = unpaired().for_samples(np.arange(5), None)[SOURCE]
    np.testing.assert_array_equal(own, -POINTS[[0, 1, 2, 0, 1]])
    asked = unpaired().asked(POINTS[:2]).for_samples(np.arange(3), None)[SOURCE]
    np.testing.assert_array_equal(asked, POINTS[[0, 1, 0]])


def test_pairs_come_with_the_data():
    rows = {"source": np.full((7, 4, 4, 1), 128, np.uint8)}
    data = Dataset(
        np.zeros((7, 4, 4, 1), np.uint8), np.zeros((0, 4, 4, 1)), 256, **{"train_conditions": rows}
    )
    source = Source((4, 4, 1), Scaling(256))
    stored = source.from_data(data, "train")
    made = source.complete(stored | {"other": 1}, KEYS[:7], None)
    assert made.keys() == {"other", SOURCE}
    np.testing.assert_allclose(made[SOURCE], 1 / 256, atol=1e-6)  # the middle of the level


@pytest.mark.thorough
def test_the_image_condition_can_be_the_source():
    config = digits.get_config("enlarge_bridge")
    model = pipelines.untrained(config)
    stored = model.conditions.from_data(model.dataset(), "train")
    made = model.complete(stored, jax.random.key(0), model.dataset().train[:4] / 16.0, 0)
    np.testing.assert_array_equal(made[SOURCE], made["images"])
    values = model.sample_conditions(np.arange(3))
    np.testing.assert_array_equal(model.conditions.start(values), values["images"])
    config.image_condition.name = "masked"
    with pytest.raises(ValueError, match="take 'low_res', or 'data' with images of 1 channels"):
        pipelines.untrained(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 5)), r"float64 of the shape \(3, 5\): it must be .* \(N, 2\)"),
        (np.full((3, 2), np.nan), "not finite"),
    ],
)
def test_sources_of_another_shape_or_with_holes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        unpaired().asked(values)


@pytest.fixture(scope="module")
def model():
    config = points.get_config("from_moons")
    made = pipelines.untrained(changed(config, TINY))
    return made.replace(params=made.model.init(jax.random.key(0), (1, 2)))


@pytest.mark.thorough
def test_compiled_functions_hold_no_rows_of_a_source(model):
    """The loss with its gradient, and the held-out metrics, on rows that are arguments."""
    config = changed(points.get_config("from_moons"), TINY)
    task, training = tasks.task(config), optimization.training(config)
    values = task.values(task.model.dataset(), "train")
    arguments = next(make_batches(values, training, task.model.mesh, 0, task.shared))
    abstract = abstract_state(task, 0, task.model.mesh)
    step = compiled(make_program(task, training, task.model.mesh), abstract)
    programs = [step.lower(abstract, *arguments).as_text()]
    x, conditions = jax.tree.map(lambda leaf: leaf[:8], values)
    metrics = jax.jit(task.metrics)
    batch = x, conditions | task.shared
    programs.append(metrics.lower(model.params, jax.random.key(0), batch, 0).as_text())
    (rows,) = task.shared.values()
    for program in programs:
        assert str(rows.shape[0]) in program
        assert max(map(len, re.findall("0x[0-9A-F]+", program)), default=0) < rows.nbytes


@pytest.mark.thorough
def test_a_source_that_is_missing_is_refused_before_compilation(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "compiled", None)
    missing = {"source.dataset": "npz", "source.path": str(tmp_path / "none.npz")}
    config = changed(points.get_config("from_moons"), TINY | missing)
    with pytest.raises(ValueError, match=r"config\.source\.path = .*none\.npz"):
        train.run(Request(config, tmp_path / "run"))


@pytest.mark.thorough
def test_a_model_with_a_source_has_no_likelihood(model):
    for use in (model.log_likelihood, model.encode, model.decode):
        with pytest.raises(ValueError, match="the probability flow from normal noise"):
            use(np.zeros((2, 2)))
    assert "likelihood" not in tasks.task(points.get_config("from_moons")).reports


@pytest.mark.thorough
def test_paths_of_samples_start_at_the_source(model):
    asked = model.set(condition={"source": POINTS[:3]})
    np.testing.assert_allclose(draw.draw_paths(asked, 3, 1)[0], POINTS[:3], rtol=1e-6)
    moved = model.set(condition={"source": POINTS[:3] + 1})
    assert not np.allclose(asked.sample(3), moved.sample(3))


@pytest.mark.thorough
def test_pairs_without_rows_are_refused():
    config = changed(digits.get_config("edm"), {"source.name": "pairs"})
    config.model.class_conditional = False
    made = tasks.task(config)
    with pytest.raises(ValueError, match="the data have no source beside the samples"):
        made.values(made.model.dataset(), "train")
