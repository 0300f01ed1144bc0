"""Training on floats of any units: moments are recorded, kept and undone."""

import io
import shutil
from contextlib import redirect_stdout

import numpy as np
import pytest
from tiny_configs import table_config

import experiments
from experiments.build import tasks
from experiments.build.components import specs
from experiments.commands import train
from experiments.commands.request import Request
from experiments.data.dataset import Dataset
from experiments.runs import files
from experiments.runs.card import CARD
from experiments.tasks.discriminator import with_samples


def config(path):
    result = table_config(path)
    result.data.label_column = "kind"
    return result


def run(ours, folder):
    with redirect_stdout(io.StringIO()) as printed:
        train.run(Request(ours, folder))
    return printed.getvalue()


@pytest.mark.thorough
def test_a_run_keeps_the_moments_of_its_data(tmp_path):
    path, folder = tmp_path / "table 数.csv", tmp_path / "run"
    rows = 1000 + [1, 10, 100] * np.random.RandomState(0).randn(100, 3)
    lines = [f"{a},{b},{c},{'xy'[k % 2]}" for k, (a, b, c) in enumerate(rows)]
    path.write_text("\n".join(["a,b,c,kind", *lines]))
    ours = config(path)
    printed = run(ours, folder)
    assert "test bits/dim" in printed
    assert " nats\n" in printed.split("test log-likelihood ")[1]
    kept = files.read_json(folder / "standardization.json")
    np.testing.assert_allclose(kept["mean"], 1000, atol=40)
    np.testing.assert_allclose(kept["std"], [1, 10, 100], rtol=0.3)
    card = (folder / "checkpoints" / "2" / CARD).read_text()
    assert "'kind': 0 = x, 1 = y" in card

    ours.training.n_iters = 3
    run(ours, folder)
    assert files.read_json(folder / "standardization.json") == kept
    moved = shutil.move(folder, tmp_path / "moved")
    model = experiments.load(moved)
    assert model.scaling.mean == tuple(kept["mean"])
    z = model.sample(4)
    x = model.to_data(z)
    np.testing.assert_allclose(x, kept["mean"] + kept["std"] * z, rtol=1e-5, atol=1e-2)
    assert np.isfinite(model.bits_per_dim(x).nats).all()
    (moved / "standardization.json").unlink()
    with pytest.raises(ValueError, match=r"standardization.json is missing, which training writes"):
        experiments.load(moved)


@pytest.mark.thorough
def test_other_data_than_the_run_s_are_refused(tmp_path):
    path, folder = tmp_path / "table.csv", tmp_path / "run"
    values = np.random.RandomState(0).randn(40, 3)
    for scale in (1, 2):
        lines = [",".join(map(str, row)) for row in scale * values]
        path.write_text("\n".join(["a,b,c", *lines]))
        ours = config(path)
        ours.data.label_column = ""
        if scale == 1:
            run(ours, folder)
    ours.training.n_iters = 3
    with pytest.raises(ValueError, match=r"are not those that the run .* they differ in samples"):
        run(ours, folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"centered": False},
            "centered is False, which is for grey levels, and the data are float",
        ),
        ({"dtype": "uint8"}, "config.data.dtype 'uint8' is unknown"),
        ({"dataset": "digits", "label_column": ""}, None),
        ({"dataset": "digits", "dtype": "float", "label_column": ""}, "values and labels of its"),
        ({"dataset": "digits"}, "label_column is 'kind', but 'digits' has values and labels of"),
    ],
    ids=str,
)
def test_fields_of_other_sources_are_refused(tmp_path, changes, message):
    ours = config("x.csv")
    ours.data.update(changes)
    if message is None:
        assert specs.scaling(ours).levels == 17
    else:
        with pytest.raises(ValueError, match=message):
            specs.scaling(ours)


@pytest.mark.thorough
def test_a_discriminator_s_moments_are_those_of_the_data_alone(tmp_path):
    """Samples of a model would move them, and the two would not see the same model space."""
    task = tasks.task(config("x.csv"))
    values = np.random.RandomState(0).randn(2, 40, 3).astype(np.float32)
    real = Dataset(*values, None)
    joined = with_samples(real, 100 + np.concatenate(values), tmp_path)
    made = train.standardized(task, joined, tmp_path)
    np.testing.assert_allclose(made.scaling.mean, values[0].mean(0), atol=1e-5)
    assert train.standardized(made, real, tmp_path).scaling == made.scaling
