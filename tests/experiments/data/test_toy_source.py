"""A new data source is one line in SOURCES: the door, the task and the trainer then know it."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import digits, points
from experiments.build import data, reports, tasks
from experiments.build.components import optimization, specs
from experiments.data.dataset import Dataset
from experiments.data.sources import SOURCES, Source
from experiments.training.state import abstract_state, init_state
from experiments.training.step import compiled, make_batches, make_program


def ring(spec):
    """Points on a circle."""
    angles = np.arange(40, dtype=np.float32)
    values = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Dataset(values[:32], values[32:], None)


def stripes(spec):
    """Images of one bright row each; the row is the class."""
    labels = np.arange(40, dtype=np.int32) % spec.shape[0]
    images = np.zeros((40, *spec.shape), np.uint8)
    images[np.arange(40), labels] = 3
    return Dataset(images[:32], images[32:], 4, labels[:32], labels[32:])


@pytest.mark.thorough
def test_a_source_added_by_one_line_trains(monkeypatch):
    monkeypatch.setitem(SOURCES, "ring", Source(ring, None))
    config = points.get_config()
    config.data.dataset, config.model.nf = "ring", 8
    config.training.batch_size, config.optim.warmup = 8, 0
    task, training = tasks.task(config), optimization.training(config)
    dataset, mesh = data.dataset(config), optimization.mesh(config)
    task.prepare(dataset, None)
    abstract = abstract_state(task, config.seed, mesh)
    state = init_state(task, config.seed, abstract)
    before = jax.device_get(state.params)
    program = compiled(make_program(task, training, mesh), abstract)
    batches = make_batches(task.values(dataset, "train"), training, mesh, 0)
    state, metrics = program(state, *next(batches))
    assert state.step == 1
    assert 0 < metrics["loss"][0] < np.inf
    moved = jax.tree.map(lambda new, old: (np.asarray(new) != old).any(), state.params, before)
    assert any(jax.tree.leaves(moved))


@pytest.mark.thorough
def test_images_of_a_source_have_its_grey_levels_and_its_line_in_the_card(monkeypatch):
    monkeypatch.setitem(SOURCES, "stripes", Source(stripes, 4, "bright rows", "CC0"))
    config = digits.get_config()
    config.data.update(dataset="stripes", image_size=4, num_classes=4)
    dataset = data.dataset(config)
    assert dataset.train.shape == (32, 4, 4, 1)
    assert specs.scaling(config).levels == 4
    facts = reports.card_facts(config, tasks.task(config), dataset, 1)
    assert (facts.data["Source"], facts.data["Licence"]) == ("bright rows", "CC0")
    assert facts.data["Labels"] == "4 classes"
    named = dataclasses.replace(dataset, classes=tuple("abcd"), notes=("left out: x", "y"))
    facts = reports.card_facts(config, tasks.task(config), named, 1)
    assert facts.data["Classes"] == "0 (a), 1 (b), 2 (c), 3 (d)"
    assert facts.data["Found"] == "left out: x; y"


def test_an_unknown_source_is_refused_at_the_door():
    config = digits.get_config()
    config.data.dataset = "stripe"
    with pytest.raises(ValueError, match=r"config\.data\.dataset 'stripe' is unknown"):
        tasks.task(config)
