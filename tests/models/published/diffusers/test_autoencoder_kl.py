import dataclasses
import json
import re

import golden
import jax
import jax.numpy as jnp
import numpy as np
import published_models
import pytest
import torch_writer

import models
from models import published
from models.published import base

COMPVIS = {  # diffusers' names of layers, and CompVis' for the same
    r"(down|up)_blocks\.(\d)\.resnets\.(\d)": r"\1.\2.block.\3",
    r"(down|up)_blocks\.(\d)\.attentions\.(\d)": r"\1.\2.attn.\3",
    r"(down|up)_blocks\.(\d)\.(down|up)samplers\.0": r"\1.\2.\3sample",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    r"conv_shortcut": "nin_shortcut",
    r"conv_norm_out": "norm_out",
    r"(attn.*)\.group_norm": r"\1.norm",
    r"(attn.*)\.to_(q|k|v)": r"\1.\2",
    r"(attn.*)\.to_out\.0": r"\1.proj_out",
}


def golden_source(path, arrays):
    options = json.loads(str(arrays["config"]))
    return published.Source(path, golden.state_dict(arrays), options)


def in_compvis(state):
    """The tensors by CompVis' names: decoders count from the largest level, attention is 1 x 1."""
    made = {}
    for name, array in state.items():
        for pattern, theirs in COMPVIS.items():
            name = re.sub(pattern, theirs, name)
        name = re.sub(r"(?<=up\.)(\d)", lambda m: str(3 - int(m[1])), name)
        wide = "attn" in name and array.ndim == 2
        made[name] = array[:, :, None, None] if wide else array
    return made


def apply(config, params, value, method):
    fn = jax.jit(models.create(config).apply, static_argnames="method")
    return fn({"params": params}, jnp.asarray(value), method=method)


def assert_golden(config, params, arrays):
    mean, logvar = apply(config, params, golden.channels_last(arrays["x"]), "encode")
    image = apply(config, params, golden.channels_last(arrays["z"]), "decode")
    for got, name in ((mean, "mean"), (logvar, "logvar"), (image, "output")):
        golden.assert_samples_close(got, golden.channels_last(arrays[name]), 1e-5)


@pytest.mark.thorough
def test_the_imported_network_agrees_with_the_published_code(tmp_path):
    arrays = golden.load("diffusers_vae")
    source = golden_source(tmp_path / "vae", arrays)
    form, found, config, params = published_models.load(source)
    assert_golden(config, params, arrays)
    state, options = published_models.written(form, config, params)
    published_models.assert_bits(state, found.arrays)
    assert options.items() <= source.options.items()


@pytest.mark.thorough
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_files_of_compvis_hold_the_same_network(prefix, tmp_path):
    """By equal weights: the golden ones under CompVis' names, and within a larger model."""
    arrays = golden.load("diffusers_vae")
    state = in_compvis(golden.state_dict(arrays))
    others = {"model.diffusion_model.out.0.weight": np.ones(3)} if prefix else {}
    content = {prefix + name: torch_writer.tensor(array) for name, array in state.items()}
    content |= {name: torch_writer.tensor(array) for name, array in others.items()}
    path = tmp_path / "model.ckpt"
    torch_writer.save_zip(path, {"state_dict": content, "global_step": 7})
    given = {"model.norm_groups": 8, "data.image_size": 32}
    form, _, config, params = published_models.load(published.read(path), **given)
    assert form.name == "autoencoder_compvis"
    assert_golden(config, params, arrays)
    bare = base.skeleton(models.create(config), (32, 32, 3))
    published_models.assert_bits(base.extract(params, form.table(bare)), state)


def test_attention_of_2022_has_other_names(tmp_path):
    arrays = golden.load("diffusers_vae")
    source = golden_source(tmp_path / "vae", arrays)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name):
        return re.sub("|".join(old), lambda m: old[m[0]], name)

    renamed = {rename(name): array for name, array in source.content.items()}
    of_2022 = published.Source(source.path, renamed, source.options)
    jax.tree.map(
        np.testing.assert_array_equal,
        published_models.load(of_2022)[-1],
        published_models.load(source)[-1],
    )


@pytest.mark.parametrize("spelling", ["autoencoder_kl", "autoencoder_compvis"])
def test_a_file_without_its_config_is_one_of_usual_options(spelling, tmp_path):
    source = golden_source(tmp_path / "vae.safetensors", golden.load("diffusers_vae"))
    theirs = spelling == "autoencoder_compvis"
    state = in_compvis(source.content) if theirs else source.content
    form, found = published.identify(published.Source(source.path, state, {"format": "pt"}))
    assert form.name == spelling
    assert (found.assumed["model.norm_groups"], found.assumed["data.image_size"]) == (32, 256)


def test_a_folder_that_lacks_layers_is_refused_with_their_names(tmp_path):
    source = golden_source(tmp_path / "vae", golden.load("diffusers_vae"))
    del source.content["decoder.conv_in.weight"]
    with pytest.raises(ValueError, match=r"but has no \['decoder\.conv_in\.weight'\]"):
        published.identify(source)


def test_in_a_pipeline_the_size_is_that_of_its_latents(tmp_path):
    source = golden_source(tmp_path / "vae", golden.load("diffusers_vae"))
    pipeline = dataclasses.replace(source, parts={"transformer": {"sample_size": 64}})
    assert published.identify(pipeline)[1].fields["data.image_size"] == 512


@pytest.mark.parametrize(
    ("options", "message"),
    [({"act_fn": "mish"}, "act_fn = 'mish'"), ({"latent_channels": 4}, None)],
)
def test_what_the_network_does_not_have_is_named(options, message, tmp_path):
    source = golden_source(tmp_path / "vae", golden.load("diffusers_vae"))
    changed = published.Source(source.path, source.content, {**source.options, **options})
    if message is None:
        assert published.identify(changed)
        return
    with pytest.raises(ValueError, match=message):
        published.identify(changed)


def test_a_decoder_of_other_images_is_refused(tmp_path):
    source = golden_source(tmp_path / "vae", golden.load("diffusers_vae"))
    state = source.content | {"decoder.conv_out.weight": np.ones((1, 32, 3, 3), np.float32)}
    with pytest.raises(ValueError, match="takes 3 channels to 4, but whose decoder takes 4 to 1"):
        published.identify(published.Source(source.path, state, source.options))


def test_another_network_is_not_written(tmp_path):
    form = published.FORMATS["autoencoder_kl"]
    bare = base.skeleton(models.autoencoder.Autoencoder(nf=8, ch_mult=(1, 2)), (8, 8, 3))
    with pytest.raises(ValueError, match=r"is none of an AutoencoderKL .*'wide_transitions': True"):
        form.table(bare)


def test_the_published_network_has_its_number_of_parameters():
    options = {
        "nf": 128,
        "ch_mult": (1, 2, 4, 4),
        "norm_groups": 32,
        "skip_rescale": False,
        "wide_transitions": True,
        "quant_conv": True,
        "post_quant_conv": True,
    }
    bare = base.skeleton(models.autoencoder.Autoencoder(**options), (256, 256, 3))
    assert sum(leaf.size for leaf in bare.shapes.values()) == 83_653_863
    names = [tensor.name for tensor in published.FORMATS["autoencoder_kl"].table(bare).values()]
    assert len(set(names)) == len(names) == 248


SMALL = {"norm_num_groups": 4, "block_out_channels": (8, 12), "layers_per_block": 1}
ATTENTIVE = {
    "down_block_types": ("AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
}
LEVELS = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


@pytest.mark.parametrize(
    "options",
    [
        SMALL | LEVELS,
        SMALL | ATTENTIVE | {"layers_per_block": 2, "latent_channels": 3},
        SMALL | LEVELS | {"use_quant_conv": False, "use_post_quant_conv": False},
        SMALL | LEVELS | {"mid_block_add_attention": False, "use_quant_conv": False},
        SMALL | LEVELS | {"in_channels": 1, "out_channels": 1, "sample_size": 16},
        {"norm_num_groups": 2, "block_out_channels": (8,), "layers_per_block": 2},
    ],
    ids=lambda options: ",".join(options),
)
def test_models_of_diffusers_give_the_same_here_and_when_written_back(options, tmp_path):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers")
    theirs = diffusers.AutoencoderKL(**options, scaling_factor=0.13025, shift_factor=0.5)
    published_models.draw(theirs)
    source = published_models.saved(theirs, tmp_path / "theirs")
    form, found, config, params = published_models.load(source)
    n, c = config.data.image_size, config.data.num_channels
    x = np.random.default_rng(0).standard_normal((2, c, n, n)).astype("f4")
    mean, logvar = apply(config, params, np.moveaxis(x, 1, -1), "encode")
    image = apply(config, params, mean, "decode")
    arrays, _ = published_models.written(form, config, params)
    published_models.assert_bits(arrays, found.arrays)
    kind = diffusers.AutoencoderKL
    back = published_models.opened(kind, tmp_path / "ours", form, config, params)
    assert back.config.scaling_factor == theirs.config.scaling_factor
    for model in (theirs, back):
        with torch.no_grad():
            latent = model.encode(torch.from_numpy(x)).latent_dist
            decoded = model.decode(torch.from_numpy(np.moveaxis(np.array(mean), -1, 1))).sample
        for got, expected in ((mean, latent.mean), (logvar, latent.logvar), (image, decoded)):
            golden.assert_samples_close(got, np.moveaxis(expected.numpy(), 1, -1), 1e-5)
