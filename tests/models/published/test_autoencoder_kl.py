import json
import re

import golden
import jax
import numpy as np
import pytest

import models
from configs.default import get_config
from experiments.build import pipelines
from models import published
from models.published import base


def config_of(found, **fields):
    config = get_config()
    values = found.assumed | found.fields | fields
    with config.unlocked(), config.ignore_type():
        for name, value in values.items():
            section, _, last = name.rpartition(".")
            config[section][last] = value
    return config


def source(tmp_path):
    arrays = golden.load("diffusers_vae")
    options = json.loads(str(arrays["config"]))
    return published.Source(tmp_path / "vae", golden.state_dict(arrays), options), arrays


def test_imported_networks_agree_with_the_published_code(tmp_path):
    where, arrays = source(tmp_path)
    form, found = published.identify(where)
    config = config_of(found)
    params = published.params(form, found.arrays, config)
    network = models.create(config)

    def apply(method, value):
        return network.apply({"params": params}, golden.channels_last(arrays[value]), method=method)

    mean, logvar = apply("encode", "x")
    for got, name in ((mean, "mean"), (logvar, "logvar"), (apply("decode", "z"), "output")):
        golden.assert_samples_close(got, golden.channels_last(arrays[name]), 1e-5)
    bare = base.skeleton(network, (32, 32, 3))
    written = base.extract(params, form.table(bare))
    assert written.keys() == found.arrays.keys()
    for key, array in found.arrays.items():
        np.testing.assert_array_equal(written[key], array)
    options = form.options(bare, {})
    assert options.items() <= where.options.items()
