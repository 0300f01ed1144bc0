"""The U-Nets of diffusers against golden numbers."""

import json

import golden
import jax
import numpy as np
import pytest

import models
from configs import digits
from configs.default import get_config
from experiments.build import pipelines
from models import published
from models.published import base
from models.published.diffusers import unet2d

GOLDEN = ("diffusers_ddpm_unet", "diffusers_ncsnpp_unet")
TINY = ("diffusers_ddpm_tiny", "diffusers_ddpm_tiny_2022")
FORM = unet2d.Diffusers()


def config_of(found):
    config = get_config()
    with config.unlocked():
        config.update_from_flattened_dict(found.assumed | found.fields)
    return config


def imported(source):
    form, found = published.identify(source)
    assert form.name == "diffusers"
    config = config_of(found)
    return config, published.params(form, found.arrays, config)


def output(config, params, x, labels, **options):
    """The network's output for an input with channels first."""
    network = jax.jit(models.create(config).apply)
    x, labels = golden.channels_last(x), np.asarray(labels, np.float32)
    return np.moveaxis(np.asarray(network({"params": params}, x, labels, **options)), -1, 1)


@pytest.mark.thorough
@pytest.mark.parametrize("name", GOLDEN)
def test_networks_agree_with_the_library(name, tmp_path):
    arrays = golden.load(name)
    content = golden.state_dict(arrays)
    source = published.Source(tmp_path, content, json.loads(str(arrays["config"])))
    config, params = imported(source)
    ours = output(config, params, arrays["x"], arrays["timesteps"])
    golden.assert_samples_close(ours, arrays["output"], 1e-5)
    pipelines.untrained(config)
    table = FORM.table(published.skeleton(config))
    written = base.extract(params, table)
    assert written.keys() == content.keys()
    for key, array in content.items():
        np.testing.assert_array_equal(written[key], array)


@pytest.mark.thorough
@pytest.mark.parametrize("name", TINY)
def test_folders_of_today_and_of_2022_agree(name):
    arrays = golden.load("diffusers_ddpm_tiny")
    config, params = imported(published.read(golden.FOLDER / name))
    ours = output(config, params, arrays["x"], arrays["timesteps"])
    golden.assert_samples_close(ours, arrays["output"], 1e-5)


DDPM = {
    "_class_name": "UNet2DModel",
    "norm_eps": 1e-6,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("widths", "attention", "size", "count"),
    [
        ((128, 256, 256, 256), 1, 32, 35_746_307),
        ((128, 128, 256, 256, 512, 512), 4, 256, 113_673_219),
    ],
)
def test_published_models_have_their_number_of_parameters(tmp_path, widths, attention, size, count):
    marks = ["Attn" if i == attention else "" for i in range(len(widths))]
    options = DDPM | {
        "sample_size": size,
        "block_out_channels": widths,
        "down_block_types": [f"{mark}DownBlock2D" for mark in marks],
        "up_block_types": [f"{mark}UpBlock2D" for mark in reversed(marks)],
    }
    _, found = published.identify(published.Source(tmp_path, {}, options))
    shapes = published.skeleton(config_of(found)).shapes
    assert sum(leaf.size for leaf in shapes.values()) == count


def found_in(tmp_path, scheduler=None, **options):
    parts = {} if scheduler is None else {"scheduler": scheduler}
    source = published.Source(tmp_path, {}, DDPM | SMALL | options, parts)
    return published.identify(source)[1]


SMALL = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
    "sample_size": 8,
}


def test_what_a_file_does_not_tell_is_assumed(tmp_path):
    found = found_in(tmp_path, sample_size=None)
    assert found.assumed["data.image_size"] == 32
    assert found.assumed["model.beta_schedule"] == "linear"
    assert "training.sde" not in found.fields
    assert "training.sde" not in found_in(tmp_path, {"_class_name": "DDPMScheduler"}).assumed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"act_fn": "elu"}, "act_fn = 'elu', which we do not have"),
        ({"in_channels": 6}, "6 input channels and 3 output channels"),
        ({"sample_size": (8, 16)}, "images here are square"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift 'spatial' is unknown"),
        (
            {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")},
            "down_block_types 'CrossAttnDownBlock2D' is unknown",
        ),
    ],
)
def test_networks_that_we_do_not_have_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        found_in(tmp_path, **options)


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        ({"variance_type": "learned_range"}, {}, "the network gives no variances"),
        (
            {"num_train_timesteps": 1000},
            {"time_embedding_type": "learned", "num_train_timesteps": 100},
            "has 1000 noise levels, but the network's table of them has 100",
        ),
    ],
)
def test_schedulers_of_another_network_are_refused(tmp_path, scheduler, options, message):
    with pytest.raises(ValueError, match=message):
        found_in(tmp_path, {"_class_name": "DDPMScheduler"} | scheduler, **options)


def test_other_classes_are_named(tmp_path):
    source = published.Source(tmp_path, {}, {"_class_name": "UNet2DConditionModel"})
    with pytest.raises(ValueError, match="a UNet2DConditionModel of diffusers, which is no"):
        published.identify(source)
    parts = {"pipeline": {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}}
    with pytest.raises(ValueError, match="LDMPipeline, whose samples are latents of its vqvae"):
        published.identify(published.Source(tmp_path, {}, DDPM | SMALL, parts))


def test_networks_that_diffusers_does_not_have_are_not_written():
    bare = published.skeleton(digits.get_config("vp_score_sde"))
    with pytest.raises(ValueError, match="network NCSNpp is no UNet2DModel"):
        FORM.options(bare, {})


def test_cards_go_by_the_name_of_the_repository(tmp_path):
    for name in ("google/ddpm-cifar10-32", "google/ddpm-ema-church-256", "google/ncsnpp-ffhq-1024"):
        card = published.card(FORM, published.Source(tmp_path, {}, repository=name))
        assert card.license == "Apache-2.0"
