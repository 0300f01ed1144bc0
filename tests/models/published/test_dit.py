import dataclasses
import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import published_models
import pytest
import torch_writer

import models
from experiments.build import pipelines
from experiments.build.fields import known_fields
from models import published
from models.dit import SIZES, DiT
from models.published import base
from samplers import guidance

ORIGINAL, FOLDER = "dit_original", "diffusers_dit"
HEADS = {"model.num_heads": 2}  # a file of the original does not tell
UNCONDITIONAL = 10  # the last row of the table of classes


def source_of(name, path):
    """A golden file as it would be published, and its numbers."""
    arrays = golden.load(name)
    state = golden.state_dict(arrays)
    if name == ORIGINAL:
        return published.Source(path, state | {"pos_embed": arrays["buffer/pos_embed"]}), arrays
    for key in state:  # every block has copies of the first block's embedders
        if ".1.norm1.emb." in key:
            state[key] = state[key.replace(".1.norm1", ".0.norm1")]
    return published.Source(path, state, json.loads(str(arrays["config"]))), arrays


def load(name, path):
    source, arrays = source_of(name, path)
    given = HEADS if name == ORIGINAL else {}
    return *published_models.load(source, **given), arrays


def apply(config, params, x, t, labels):
    labels = jnp.where(labels == config.data.num_classes, -1, labels)
    x, t = jnp.asarray(golden.channels_last(x)), jnp.asarray(t, jnp.float32)
    return jax.jit(models.create(config).apply)({"params": params}, x, t, class_labels=labels)


@pytest.mark.parametrize("name", [ORIGINAL, FOLDER])
def test_imported_networks_agree_with_the_published_code(name, tmp_path):
    form, found, config, params, arrays = load(name, tmp_path)
    output = apply(config, params, arrays["x"], arrays["timesteps"], arrays["class_labels"])
    golden.assert_samples_close(output, golden.channels_last(arrays["output"]), 1e-5)
    state, options = published_models.written(form, config, params)
    published_models.assert_bits(state, found.arrays)
    assert options.items() <= json.loads(str(arrays["config"])).items()


def test_the_published_guidance_is_of_the_first_three_channels(tmp_path):
    *_, config, params, arrays = load(ORIGINAL, tmp_path)
    network = models.create(config)

    def noise_and_variance(x, t, labels):
        output = network.apply({"params": params}, x, t, class_labels=labels)
        return tuple(jnp.split(output, 2, axis=-1))

    labels = jnp.where(arrays["class_labels"] == UNCONDITIONAL, -1, arrays["class_labels"])
    x, t = golden.channels_last(arrays["x"]), jnp.asarray(arrays["timesteps"], jnp.float32)
    scale = float(arrays["cfg_scale"])
    guided = guidance.classifier_free(noise_and_variance, labels, scale, channels=3)
    output = jnp.concatenate(jax.jit(guided)(x, t), -1)
    golden.assert_samples_close(output, golden.channels_last(arrays["guided_output"]), 1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [ORIGINAL, FOLDER])
def test_the_config_makes_a_model_without_data(name, tmp_path):
    source, _ = source_of(name, tmp_path)
    config = published_models.config_of(published.identify(source)[1], **HEADS)
    known_fields.check(config)
    model = pipelines.untrained(config)
    assert model.shape == (8, 8, 4)
    assert model.sampler.variance == "learned"
    np.testing.assert_array_equal(
        model.model.preconditioning.label(jnp.array([0.0, 1.0])), [0, 999]
    )


def test_a_checkpoint_of_training_gives_its_averages(tmp_path):
    source, _ = source_of(ORIGINAL, tmp_path)
    tensors = {name: torch_writer.tensor(array) for name, array in source.content.items()}
    last = {f"module.{name}": torch_writer.tensor(-a) for name, a in source.content.items()}
    args = torch_writer.Call("argparse.Namespace", state={"model": "DiT-S/2", "num_classes": 11})
    path = tmp_path / "0400000.pt"
    torch_writer.save_zip(path, {"model": last, "ema": tensors, "opt": {"state": {}}, "args": args})
    form, found, config, params = published_models.load(published.read(path), **HEADS)
    assert (form.name, found.fields["data.num_classes"]) == ("dit", 11)
    assert (config.model.null_class, config.model.label_dropout) == (False, 0.0)
    published_models.assert_bits(form.clean(found.arrays), form.clean(source.content))
    np.testing.assert_array_equal(
        found.last["x_embedder.proj.bias"], -source.content["x_embedder.proj.bias"]
    )
    state, options = published_models.written(form, config, params)
    published_models.assert_bits(state, source.content)
    assert (options["num_classes"], options["class_dropout_prob"]) == (11, 0.0)


def test_a_written_file_tells_its_heads(tmp_path):
    source, _ = source_of(ORIGINAL, tmp_path)
    form, _, config, params = published_models.load(source, **{"model.num_heads": 4})
    published_models.write(tmp_path / "dit", form, config, params)
    found = published.identify(published.read(tmp_path / "dit"))[1]
    assert found.fields["model.num_heads"] == 4
    assert not {"model.num_heads", "data.num_classes"} & (found.assumed.keys() - found.fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos_embed": np.ones((1, 16, 64), "f4")}, "pos_embed is not the fixed table"),
        ({"final_layer.linear.weight": np.ones((48, 64), "f4")}, "48 outputs for a patch"),
        ({"t_embedder.mlp.0.weight": np.ones((64, 128), "f4")}, "128 features of the noise"),
        ({"x_embedder.proj.weight": np.ones((64, 4), "f4")}, "must have 4 axes"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_the_network_does_not_have_is_named(changes, message, tmp_path):
    source, _ = source_of(ORIGINAL, tmp_path)
    with pytest.raises(ValueError, match=message):
        published.identify(published.Source(source.path, source.content | changes))


@pytest.mark.thorough
def test_the_scheduler_of_a_pipeline_tells_the_noise_and_the_sampler(tmp_path):
    source, _ = source_of(FOLDER, tmp_path)
    scheduler = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}
    scheduler |= {"prediction_type": "v_prediction", "clip_sample": False}
    parts = {"scheduler": scheduler, "vae": {"scaling_factor": 0.5}}
    config = published_models.config_of(
        published.identify(dataclasses.replace(source, parts=parts))[1]
    )
    model = pipelines.untrained(config)
    assert type(model.sampler).__name__ == "DDIM"
    assert config.model.parametrization == "v"
    assert config.data.latent_std == (2.0,) * 4
    learned = {"_class_name": "DDPMScheduler", "variance_type": "learned_range"}
    state = source.content | {
        name: source.content[name][:16] for name in ("proj_out_2.weight", "proj_out_2.bias")
    }
    wrong = published.Source(tmp_path, state, source.options, {"scheduler": learned})
    with pytest.raises(ValueError, match="has learned variances, but the network has as many"):
        published.identify(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_type": "ada_norm_single"}, "norm_type = 'ada_norm_single'"),
        ({"activation_fn": "geglu"}, "activation_fn = 'geglu'"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine = True"),
    ],
)
def test_options_that_our_network_does_not_have_are_named(options, message, tmp_path):
    source, _ = source_of(FOLDER, tmp_path)
    with pytest.raises(ValueError, match=message):
        published.identify(
            published.Source(tmp_path, source.content, {**source.options, **options})
        )


def test_a_file_without_its_config_is_one_of_usual_options(tmp_path):
    source, _ = source_of(FOLDER, tmp_path)
    bare = published.Source(tmp_path / "dit.safetensors", source.content, {"format": "pt"})
    form, found = published.identify(bare)
    assert form.name == "diffusers_dit"
    assert found.assumed["model.mlp_epsilon"] == 1e-5
    del source.content["transformer_blocks.0.ff.net.2.weight"]
    with pytest.raises(ValueError, match=r"but has no .*0\.ff\.net\.2\.weight"):
        published.identify(source)


def test_embedders_may_differ_between_blocks(tmp_path):
    """Those of published models are equal; the config of such a model is refused here."""
    source, _ = source_of(FOLDER, tmp_path)
    name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    state = source.content | {name: source.content[name] + 1}
    changed = published.Source(source.path, state, source.options)
    form, _, config, params = published_models.load(changed)
    assert not config.model.shared_embedding
    published_models.assert_bits(published_models.written(form, config, params)[0], state)
    with pytest.raises(ValueError, match=f"{name} differs from transformer_blocks.0"):
        published_models.load(changed, **{"model.shared_embedding": True})


def test_another_network_is_not_written():
    bare = base.skeleton(DiT(depth=1, hidden_size=64, num_heads=2, num_classes=3), (8, 8, 4))
    for name in ("dit", "diffusers_dit"):
        with pytest.raises(ValueError, match=r"the network DiT is none of .*'centered': True"):
            published.FORMATS[name].table(bare)


@pytest.mark.thorough
def test_the_published_networks_have_their_numbers_of_parameters():
    common = SIZES["XL"] | {"num_classes": 1000, "null_class": True, "centered": True}
    common["learned_variance"] = True
    for name, options, published_count in (
        ("dit", {"frequency_shift": 0}, 675_129_632),  # with the table of positions
        ("diffusers_dit", {"mlp_epsilon": 1e-5}, 749_826_464),
    ):
        bare = base.skeleton(DiT(**common, **options), (32, 32, 4))
        table = published.FORMATS[name].table(bare)
        sizes = {place: leaf.size for place, leaf in bare.shapes.items()}
        assert sum(sizes.values()) == 674_834_720
        stored = sum(sizes[place] * (1 + len(table[place].copies)) for place in sizes)
        constants = published.FORMATS[name].constants(bare)
        assert stored + sum(array.size for array in constants.values()) == published_count


@pytest.mark.parametrize(
    ("path", "form", "figure"),
    [
        ("DiT-XL-2-256x256.pt", "dit", "2.27"),
        ("DiT-XL-2-512x512.pt", "dit", "3.04"),
        ("facebook/DiT-XL-2-256", "diffusers_dit", "2.27"),
        ("facebook/DiT-XL-2-512", "diffusers_dit", "3.04"),
    ],
)
def test_published_models_have_cards(path, form, figure, tmp_path):
    card = published.card(published.FORMATS[form], published.Source(tmp_path / path, {}))
    assert figure in card.figure
    assert not card.commercial


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"out_channels": 4, "patch_size": 4, "norm_eps": 1e-3},
        {"attention_bias": False, "in_channels": 3, "out_channels": 6, "num_layers": 3},
        {"num_attention_heads": 3, "attention_head_dim": 4, "patch_size": 1, "sample_size": 4},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
@pytest.mark.parametrize("trained", [False, True], ids=["own_embedders", "copies"])
def test_models_of_diffusers_give_the_same_here_and_when_written_back(options, trained, tmp_path):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers")
    kind = diffusers.DiTTransformer2DModel
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
    theirs = kind(**sizes | {"num_embeds_ada_norm": 5, "out_channels": 8} | options)
    published_models.draw(theirs)
    first = theirs.transformer_blocks[0].norm1.emb.state_dict()
    for block in theirs.transformer_blocks[1:] if trained else ():  # published ones are equal
        block.norm1.emb.load_state_dict(first)
    source = published_models.saved(theirs, tmp_path / "theirs")
    form, found, config, params = published_models.load(source)
    assert config.model.shared_embedding == trained
    side, channels = config.data.image_size, config.data.num_channels
    x = np.random.default_rng(0).standard_normal((3, channels, side, side)).astype("f4")
    t, labels = np.array([0, 417, 999]), np.array([0, 4, 5])
    output = apply(config, params, x, t, labels)
    arrays, _ = published_models.written(form, config, params)
    published_models.assert_bits(arrays, found.arrays)
    for model in (theirs, published_models.opened(kind, tmp_path / "ours", form, config, params)):
        with torch.no_grad():
            expected = model(*map(torch.from_numpy, (x, t)), torch.from_numpy(labels)).sample
        golden.assert_samples_close(output, golden.channels_last(expected.numpy()), 1e-5)
