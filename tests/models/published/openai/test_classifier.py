import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from guided_models import config_of, make_file, options_of, pair, write_pair

import models
import sde_lib
from experiments.build import restored
from models import published
from models.adm_encoder import ADMClassifier
from models.published import base
from models.published.openai import cards

POOLS = ("adaptive", "spatial", "spatial_v2")
SMALL = ADMClassifier(
    nf=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), group_size=1, centered=True
)


def load(case):
    """The format, what it finds, the config, the parameters of a golden classifier."""
    name = "guided_diffusion_options" if case in POOLS else "guided_diffusion_encoder"
    arrays = golden.load(name)
    if case in POOLS:
        own = [name for name in arrays if name.startswith(f"{case}/")]
        arrays = {name.removeprefix(f"{case}/"): arrays[name] for name in own}
    state = golden.state_dict(arrays)
    form, found = published.identify(published.Source(published.Path("model.pt"), state))
    config = config_of(found, **options_of(golden.config(arrays)))
    return arrays, form, found, config, published.params(form, found.arrays, config)


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["attention", *POOLS])
def test_imported_classifiers_agree_with_the_published_code(case):
    arrays, form, found, config, params = load(case)
    assert models.kind(config) == "classifier"
    network, t = models.create(config), arrays["timesteps"].astype("f4")
    labels = arrays.get("class_labels")

    def logits_of(x):
        return network.apply({"params": params}, x, t)

    def log_probs(x):
        logits = logits_of(x)
        return nn.log_softmax(logits)[jnp.arange(len(x)), labels].sum(), logits

    x = golden.channels_last(arrays["x"])
    if labels is None:
        logits = jax.jit(logits_of)(x)
    else:
        gradient, logits = jax.jit(jax.grad(log_probs, has_aux=True))(x)
        golden.assert_samples_close(gradient, golden.channels_last(arrays["gradient"]), 1e-5)
    golden.assert_samples_close(logits, arrays["output"], 1e-5)

    bare = published.skeleton(config)
    written = base.extract(params, form.table(bare))
    assert written.keys() == found.arrays.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, found.arrays[name])
    assert form.options(bare, {})["pool"] == golden.config(arrays).pool


@pytest.mark.parametrize("name", [card.files[0] for card in cards.CLASSIFIERS])
def test_every_card_makes_a_config_of_a_classifier(name):
    side = int(name.split("x")[0])
    network = SMALL.clone(num_outputs=1000)
    source, _ = make_file(name, network, (side, side, 3), "guided_diffusion_classifier")
    form, found = published.identify(source)
    config = config_of(found, published.card(form, source))
    assert (config.data.image_size, config.data.num_classes) == (side, 1000)
    model = restored.skeleton(config).model
    t = np.array([0.0, 1.0], "f4")
    chain = side > 32
    np.testing.assert_allclose(model.preconditioning.label(t), [0, 999], atol=1e-3)
    assert isinstance(model.sde, sde_lib.Table) == chain
    assert (model.sde == sde_lib.chain(1000, "cosine")) == (side == 64)


def test_levels_that_look_alike_are_assumed():
    """Four blocks of one width without attention: two levels, or one of three."""
    network = SMALL.clone(ch_mult=(1, 1), pool="adaptive")
    source, _ = make_file("x.pt", network, form="guided_diffusion_classifier")
    _, found = published.identify(source)
    assert {"model.ch_mult", "model.num_res_blocks"} <= found.assumed.keys()
    assert found.assumed["model.ch_mult"] == (1, 1)
    attends = network.clone(attn_factors=(2,))
    source, _ = make_file("x.pt", attends, form="guided_diffusion_classifier")
    _, found = published.identify(source)
    assert (found.fields["model.ch_mult"], found.fields["model.num_res_blocks"]) == ((1, 1), 1)


@pytest.mark.thorough
def test_an_imported_pair_agrees_with_the_published_code(tmp_path):
    """The scaled input, the time, the features, the logit and the term of guidance."""
    arrays = write_pair(tmp_path / "pair")
    form, found = published.identify(published.read(tmp_path / "pair"))
    config = config_of(found)
    assert (config.data.image_size, config.model.parametrization) == (16, "edm_vp")
    params = published.params(form, found.arrays, config)
    network, inputs = models.create(config), models.preconditioning(config, sde_lib.EDM())
    sigma, labels = jnp.asarray(arrays["sigma"], jnp.float32), arrays["class_labels"].argmax(1)

    def ratio(x):
        seen, t = inputs.network_inputs(x, sigma)
        logits, kept = network.apply(
            {"params": params}, seen, t, class_labels=labels, capture_intermediates=features
        )
        (h, _), *_ = kept["intermediates"]["encoder"]["__call__"]
        return (logits[:, 1] - logits[:, 0]).sum(), (seen, t, h, logits[:, 1] - logits[:, 0])

    def features(module, method):
        return module.name == "encoder"

    x = golden.channels_last(arrays["x_hat"])
    slope, (seen, t, h, r) = jax.jit(jax.grad(ratio, has_aux=True))(x)
    np.testing.assert_allclose(t, 999 * arrays["tau"], rtol=1e-5)
    np.testing.assert_allclose(seen, golden.channels_last(arrays["x"]), atol=1e-6)
    golden.assert_samples_close(h, golden.channels_last(arrays["feature"]), 1e-5)
    np.testing.assert_allclose(r, arrays["log_ratio"], atol=1e-6)  # near 0, terms of size 1
    # The gradient at x is the mean times that at the scaled x.
    term = -((arrays["sigma"] ** 2)[:, None, None, None]) * slope
    golden.assert_samples_close(term, golden.channels_last(arrays["guidance"]), 1e-5)

    written = base.extract(params, form.table(published.skeleton(config)))
    expected = form.clean(found.arrays)
    assert written.keys() == expected.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize(("name", "column"), [("edm_vp", "tau"), ("edm_cosine", "t_cos")])
def test_the_time_of_a_discriminator_is_that_of_the_same_noise_to_signal_ratio(name, column):
    arrays = golden.load("dg_discriminator")
    inputs = models.Preconditioning(sde_lib.EDM(), name)
    sigma = arrays["table/sigma"].astype("f4")
    x, label = inputs.network_inputs(np.ones((len(sigma), 1), "f4"), sigma)
    np.testing.assert_allclose(label, 999 * arrays[f"table/{column}"], rtol=1e-5)
    np.testing.assert_allclose(x[:, 0], arrays["table/mean"], rtol=1e-6)


def test_a_pair_for_64_pixels_has_the_cosine_time():
    _, (classifier, discriminator) = pair()
    classifier = classifier | {"out.2.positional_embedding": np.zeros((128, 1 + 32 * 32), "f4")}
    discriminator = discriminator | {
        "out.2.positional_embedding": np.zeros((64, 1 + 32 * 32), "f4")
    }
    content = {"a.pt": classifier, "b.pt": discriminator}
    _, found = published.identify(published.Source(published.Path("pair"), content))
    config = config_of(found)
    assert (config.data.image_size, config.model.parametrization) == (64, "edm_cosine")


def test_a_pair_without_classes_guides_models_without_them():
    _, (classifier, discriminator) = pair()
    del discriminator["label_emb.weight"]
    content = {"a.pt": classifier, "b.pt": discriminator}
    _, found = published.identify(published.Source(published.Path("pair"), content))
    assert not found.fields["model.class_conditional"]
    assert models.create(config_of(found)).reader.num_classes == 0


def test_a_discriminator_without_its_classifier_is_refused():
    _, (classifier, discriminator) = pair()
    with pytest.raises(ValueError, match="put its file and that of the classifier into a folder"):
        published.identify(published.Source(published.Path("discriminator_60.pt"), discriminator))
    wrong = {"a.pt": classifier, "b.pt": classifier | {"out.2.c_proj.bias": np.zeros(1, "f4")}}
    with pytest.raises(
        ValueError, match=r"two encoders that are no pair: .* read the 128 features"
    ):
        published.identify(published.Source(published.Path("pair"), wrong))


def test_last_layers_of_an_unknown_pool_are_named():
    source, _ = make_file("x.pt", SMALL, form="guided_diffusion_classifier")
    del source.content["out.2.positional_embedding"]
    del source.content["out.2.c_proj.weight"]
    with pytest.raises(ValueError, match=r"the last layers \['out.0.bias', .* no pooling"):
        published.identify(source)
