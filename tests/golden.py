"""Reading tests/golden: numbers of the published implementations, channels first."""

import json
from pathlib import Path

import ml_collections
import numpy as np

FOLDER = Path(__file__).parent / "golden"


def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def channels_last(array):
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def config(arrays):
    return ml_collections.ConfigDict(json.loads(str(arrays["config"])))


def state_dict(arrays):
    """The weights that the published network had, made by the recipe that made them there."""
    random = np.random.RandomState(int(arrays["seed"]))
    weights = {}
    for name, shape in json.loads(str(arrays["parameters"])):
        value = random.standard_normal(shape).astype("f4")
        if len(shape) > 1:
            value *= 0.7 / np.sqrt(np.prod(shape[1:]))
        elif name.endswith(".W"):
            value *= 16
        elif name.endswith("weight"):
            value = 1 + 0.1 * value
        else:
            value *= 0.1
        weights[name] = value
    return weights


def assert_close(value, reference, tolerance):
    """Within `tolerance` of the reference's largest value."""
    error = np.abs(np.asarray(value) - reference).max() / np.abs(reference).max()
    assert error <= tolerance, f"off by {error:.2e} relative"
