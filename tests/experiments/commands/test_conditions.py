"""Conditions from the command line: training, sampling for a file, and the same in Python."""

import numpy as np
import pytest
from tiny_configs import points_config

import experiments
from experiments.commands import train
from experiments.commands.request import Request


@pytest.fixture
def run(tmp_path):
    """A model of points given a vector, attributes and a caption."""
    random = np.random.RandomState(0)
    vector = random.randn(200, 2) * [3, 0.1] + [10, -5]
    kinds = {"condition_vector": vector, "captions": np.array(["up", "down"] * 100)}
    kinds["condition_attributes"] = np.array([["red", 1], ["blue", 2]] * 100)
    np.savez(tmp_path / "data.npz", samples=random.randn(200, 2).astype(np.float32), **kinds)
    config = points_config()
    config.data.update(dataset="arrays", path=str(tmp_path / "data.npz"), shape=(2,), dtype="float")
    config.model.update(vector_dim=2, attributes=(2, 2), label_dropout=0.2)
    config.model.update(text="bytes", text_length=4, text_width=8, text_depth=1)
    config.training.update(n_iters=2, batch_size=16, log_freq=1, eval_freq=2)
    config.training.snapshot_freq_for_preemption = 2
    config.eval.batch_size = 20
    train.run(Request(config, tmp_path / "run"))
    return tmp_path / "run"


@pytest.mark.thorough
def test_a_file_of_conditions_is_the_same_as_values_in_python(run, tmp_path):
    values = {"vector": [[12.0, -5.0], [8.0, -4.9]], "attributes": [["red", "2"], ["blue", "-1"]]}
    values["text"] = ["up", "down"]
    np.savez(tmp_path / "asked.npz", **values)
    options = {"sampling.method": "heun", "sampling.n_steps": 4, "sampling.batch_size": 4}
    file = {"sampling.condition": str(tmp_path / "asked.npz")}
    of_file = experiments.load(run, overrides=options | file).sample(4)
    model = experiments.load(run, overrides=options)
    np.testing.assert_allclose(model.sample(4, condition=values), of_file, rtol=1e-5)
    first = {kind: rows[:1] for kind, rows in values.items()}
    np.testing.assert_allclose(model.sample(2, condition=first)[0], of_file[0], rtol=1e-5)
    assert np.abs(model.sample(4) - of_file).max() > 1e-4
    dataset = model.dataset()
    assert dataset.attributes == (("blue", "red"), ("1", "2"))
    x = model.scaling.to_model(None, dataset.test[:2])
    log_prob = model.log_likelihood(x, condition=values).log_prob
    bits = model.bits_per_dim(dataset.test[:2], condition=values).each
    assert np.isfinite(log_prob).all()
    assert np.isfinite(bits).all()
    with pytest.raises(ValueError, match="condition has no 'text', which this model needs"):
        model.log_likelihood(x, condition={"vector": [1.0, 2.0], "attributes": ["red", "1"]})
