import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_writer

import models
from configs.default import get_config
from experiments.build import known_fields, pipelines
from models import published
from models.published import base
from samplers import guidance

NAMES = ("dit_original", "diffusers_dit")
HEADS = {"model.num_heads": 2}  # the file of the original does not tell


def source(name, tmp_path):
    """The golden file as it would be published."""
    arrays = golden.load(name)
    state = golden.state_dict(arrays)
    if name == "dit_original":
        state |= {"pos_embed": arrays["buffer/pos_embed"]}
        return published.Source(tmp_path / "DiT.pt", state), arrays
    for block in range(1, 2):  # the embedders are copies of the first block's
        for key in [
            key for key in state if key.startswith(f"transformer_blocks.{block}.norm1.emb")
        ]:
            state[key] = state[key.replace(f".{block}.", ".0.", 1)]
    options = json.loads(str(arrays["config"]))
    return published.Source(tmp_path / "transformer", state, options), arrays


def config_of(found, **fields):
    config = get_config()
    values = found.assumed | found.fields | fields
    with config.unlocked():
        config.update_from_flattened_dict(values)
        for name, value in values.items():
            section, _, last = name.rpartition(".")
            config[section][last] = value
    return config


def load(name, tmp_path):
    where, arrays = source(name, tmp_path)
    form, found = published.identify(where)
    fields = HEADS if name == "dit_original" else {}
    config = config_of(found, **fields)
    return form, found, config, published.params(form, found.arrays, config), arrays


@pytest.mark.parametrize("name", NAMES)
def test_imported_networks_agree_with_the_published_code(name, tmp_path):
    form, _, config, params, arrays = load(name, tmp_path)
    x, labels = golden.channels_last(arrays["x"]), arrays["class_labels"]
    labels = np.where(labels == 10, -1, labels)
    network = jax.jit(models.create(config).apply)
    output = network(
        {"params": params}, x, arrays["timesteps"].astype(np.float32), class_labels=labels
    )
    golden.assert_samples_close(output, golden.channels_last(arrays["output"]), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_published_tensors_come_back_bit_for_bit(name, tmp_path):
    form, found, config, params, _ = load(name, tmp_path)
    bare = base.skeleton(models.create(config), (8, 8, 4))
    written = base.extract(params, form.table(bare)) | form.constants(bare)
    assert written.keys() == found.arrays.keys()
    for key, array in found.arrays.items():
        np.testing.assert_array_equal(written[key], array)
        assert written[key].dtype == array.dtype


def test_the_published_guidance_is_of_the_first_three_channels(tmp_path):
    _, _, config, params, arrays = load("dit_original", tmp_path)
    network = models.create(config)

    def noise_and_variance(x, t, labels):
        output = network.apply({"params": params}, x, t, class_labels=labels)
        return tuple(jnp.split(output, 2, axis=-1))

    labels, scale = jnp.asarray(arrays["class_labels"] % 10), float(arrays["cfg_scale"])
    labels = jnp.where(arrays["class_labels"] == 10, -1, labels)
    x, t = golden.channels_last(arrays["x"]), jnp.asarray(arrays["timesteps"], jnp.float32)
    guided = guidance.classifier_free(noise_and_variance, labels, scale, channels=3)
    output = jnp.concatenate(jax.jit(guided)(x, t), -1)
    golden.assert_samples_close(output, golden.channels_last(arrays["guided_output"]), 1e-5)
