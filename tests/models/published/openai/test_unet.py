"""guided_diffusion_options.npz holds float64 outputs of an independent program in PyTorch."""

import golden
import jax
import numpy as np
import pytest
from guided_models import config_of, make_file, options_of

import models
import sde_lib
from experiments.build import pipelines
from experiments.build.components import diffusion, sampling
from experiments.runs import folder as folders
from models import published
from models.adm import ADM
from models.published import base

CASES = ("guided_diffusion_unet", "improved", "pooled", "new_order", "consistency")
SIZES = {  # fields and published numbers of parameters, computed with the original code
    "64x64_diffusion.pt": (192, (1, 2, 3, 4), 3, (2, 4, 8), 295_904_454),
    "256x256_diffusion.pt": (256, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), 553_838_086),
}


def arrays_of(case):
    if case in CASES[1:]:
        whole = golden.load("guided_diffusion_options")
        return {n.removeprefix(f"{case}/"): a for n, a in whole.items() if n.startswith(f"{case}/")}
    return golden.load(case)


def load(case):
    """The format, what it finds, the config and the parameters of a golden case."""
    arrays = arrays_of(case)
    state = golden.state_dict(arrays)
    form, found = published.identify(published.Source(published.Path("model.pt"), state))
    config = config_of(found, **options_of(golden.config(arrays)))
    return arrays, form, found, config, published.params(form, found.arrays, config)


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_imported_networks_agree_with_the_published_code(case):
    arrays, form, found, config, params = load(case)
    assert form.name == ("consistency_models" if case == "consistency" else "guided_diffusion")
    labels = {n: arrays[n] for n in ("class_labels",) if n in arrays}
    apply = jax.jit(models.create(config).apply)
    x, t = golden.channels_last(arrays["x"]), arrays["timesteps"].astype("f4")
    output = apply({"params": params}, x, t, **labels)
    golden.assert_samples_close(output, golden.channels_last(arrays["output"]), 1e-5)

    bare = published.skeleton(config)
    written = base.extract(params, form.table(bare))
    assert written.keys() == found.arrays.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, found.arrays[name])
    theirs = golden.config(arrays).to_dict()
    del theirs["class"]
    if theirs.get("num_head_channels", -1) > 0:
        theirs.pop("num_heads", None)  # is not used
    options = form.options(bare, {})
    assert {name: options[name] for name in theirs} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in theirs.items()
    }


@pytest.mark.thorough
@pytest.mark.parametrize("name", SIZES)
def test_published_files_are_recognised_in_full_size(name):
    nf, ch_mult, n_blocks, factors, expected = SIZES[name]
    network = ADM(
        nf=nf,
        ch_mult=ch_mult,
        num_res_blocks=n_blocks,
        attn_resolutions=(),
        attn_factors=factors,
        group_size=1,
        num_classes=1000,
        learned_variance=True,
        centered=True,
    )
    side = int(name.split("x")[0])
    source, n_params = make_file(name, network, (side, side, 3))
    assert n_params == expected
    form, found = published.identify(source)
    card = published.card(form, source)
    config = config_of(found, card)
    theirs = models.create(config)
    assert all(
        getattr(theirs, field) == getattr(network, field)
        for field in ("nf", "ch_mult", "num_res_blocks", "attn_factors", "in_nf")
    )
    assert config.data.image_size == side
    assert (card.license, card.commercial) == ("MIT", True)
    cosine = sde_lib.chain(1000, "cosine")
    assert (pipelines.untrained(config).sde == cosine) == (side == 64)


SMALL = ADM(
    nf=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), group_size=1, centered=True
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (card.files[0], card.fields)
        for form in ("guided_diffusion", "consistency_models")
        for card in published.FORMATS[form].cards
    ],
)
def test_every_card_makes_a_config_that_can_be_sampled(name, fields):
    form = "consistency_models" if name.startswith("edm") else "guided_diffusion"
    network = SMALL.clone(
        learned_variance=form == "guided_diffusion",
        num_classes=3 if "cond_" in name and "uncond" not in name else 0,
    )
    source, _ = make_file(name, network, (32, 32, 3), form)
    found_form, found = published.identify(source)
    card = published.card(found_form, source)
    assert (found_form.name, card.files) == (form, (name,))
    config = config_of(found, card)
    assert config.data.image_size == fields["data.image_size"]
    made = pipelines.untrained(config)
    assert made.sampler == sampling.sampler(config)


@pytest.mark.thorough
def test_labels_are_the_steps_of_the_chain_of_4000_rescaled():
    source, _ = make_file("cifar10_uncond_50M_500K.pt", SMALL.clone(learned_variance=True))
    form, found = published.identify(source)
    config = config_of(found, published.card(form, source))
    inputs = models.preconditioning(config, diffusion.sde(config))
    label = inputs.label((np.array([0, 1234, 3999]) / 3999).astype("f4"))
    np.testing.assert_allclose(label, np.array([0, 1234, 3999]) / 4, atol=1e-3)


@pytest.mark.thorough
def test_the_edm_of_consistency_models_sees_250_log_sigma():
    source, _ = make_file("edm_cat256_ema.pt", SMALL, form="consistency_models")
    form, found = published.identify(source)
    config = config_of(found, published.card(form, source))
    inputs = models.preconditioning(config, diffusion.sde(config))
    sigma = np.array([0.002, 1.0, 80.0], "f4")
    x, label = inputs.network_inputs(np.ones((3, 1)), sigma)
    np.testing.assert_allclose(label, 250 * np.log(sigma), rtol=1e-5)
    np.testing.assert_allclose(x[:, 0], 1 / np.sqrt(sigma**2 + 0.25), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("cd_imagenet64_l2.pt", {}, "is a consistency model, which maps noise to data at once"),
        ("x.pt", {"input_blocks.0.0.weight": (32, 6, 3, 3)}, "makes smaller images larger"),
        ("x.pt", {"middle_block.1.qkv.weight": None}, "such as latent diffusion's, are not known"),
        ("x.pt", {"input_blocks.1.0.emb_layers.1.weight": None}, "do not make levels of equally"),
    ],
)
def test_what_we_do_not_have_is_named(name, changed, message):
    form = "consistency_models" if name.startswith("cd") else "guided_diffusion"
    source, _ = make_file(name, SMALL, form=form)
    for tensor, shape in changed.items():
        del source.content[tensor]
        if shape:
            source.content[tensor] = np.zeros(shape, "f4")
    with pytest.raises(ValueError, match=message):
        published.identify(source)


def test_weights_of_another_depth_are_refused_as_a_whole():
    source, _ = make_file("x.pt", SMALL)
    form, found = published.identify(source)
    del source.content["middle_block.1.qkv.bias"]
    config = config_of(found)
    arrays = dict(found.arrays)
    arrays["output_blocks.9.0.in_layers.0.weight"] = arrays.pop("middle_block.1.qkv.bias")
    message = r"missing \['middle_block.1.qkv.bias'\]; unexpected \['output_blocks.9.0"
    with pytest.raises(ValueError, match=message):
        published.params(form, arrays, config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"group_size": 4}, "normalisation is not in 32 groups"),
        ({"in_nf": 64}, "the first convolution has other channels"),
        ({"num_head_channels": 48}, "48 channels of a head do not divide"),
        ({"augment_dim": 9}, "with these fields is none of a U-Net of guided-diffusion"),
    ],
)
def test_networks_that_the_original_does_not_have_are_not_written(fields, message):
    form = published.FORMATS["guided_diffusion"]
    bare = base.skeleton(SMALL.clone(**fields), (8, 8, 3))
    with pytest.raises(ValueError, match=message):
        form.options(bare, {})


@pytest.mark.thorough
def test_a_file_that_was_written_tells_its_heads_when_it_is_read(tmp_path):
    _, form, _, config, params = load("improved")
    bare = published.skeleton(config)
    fields = folders.flatten(config.to_dict())
    arrays = base.extract(params, form.table(bare))
    form.write(tmp_path, arrays, form.options(bare, fields), base.About(fields, 1, None))
    again, found = published.identify(published.read(tmp_path))
    assert again is form
    config = config_of(found)
    assert published.skeleton(config).network == bare.network
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(array, arrays[name])
