import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

import models
import sde_lib
from configs import digits, points
from models.adm import ADM
from models.mlp import MLP
from models.ncsnpp import NCSNpp
from models.wideresnet import WideResNet

IMAGES = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LABELS = jnp.array([0.5, 3.0])
U_NET = NCSNpp(nf=8, ch_mult=(1, 1), num_res_blocks=0, attn_resolutions=(), fir=False)
A_D_M = ADM(nf=8, ch_mult=(1, 1), num_res_blocks=0, attn_resolutions=(), num_head_channels=8)


def config(pretrained="somewhere", dropout=0.0):
    result = points.get_config()
    result.model.update(name="discriminator", encoder="mlp", nf=8, num_res_blocks=1)
    result.model.pretrained = pretrained
    with result.unlocked():
        result.model.dropout = dropout
    return result


@pytest.mark.thorough
def test_features_are_the_input_of_the_last_layer():
    for network, x, last in (
        (WideResNet(blocks_per_group=1, channel_multiplier=1), IMAGES, "Dense_2"),
        (MLP(nf=8, num_res_blocks=1), IMAGES[:, 0, 0, :2], "Dense_5"),
    ):
        params = weights.random(network, x, LABELS)

        @jax.jit
        def run(params, network=network, x=x):
            h, _ = network.apply({"params": params}, x, LABELS, features=True)
            return h, network.apply({"params": params}, x, LABELS)

        h, output = run(params)
        mean = h.mean(tuple(range(1, h.ndim - 1)))
        linear = mean @ params[last]["kernel"] + params[last]["bias"]
        np.testing.assert_allclose(linear, output, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize(("network", "block"), [(U_NET, "ResnetBlock"), (A_D_M, "ADMBlock")])
def test_features_of_a_u_net_are_those_of_its_middle_without_the_decoder(network, block):
    params = weights.random(network, IMAGES, LABELS)

    @jax.jit
    def run(params):
        h, _ = network.apply({"params": params}, IMAGES, LABELS, features=True)
        _, seen = network.apply(
            {"params": params},
            IMAGES,
            LABELS,
            capture_intermediates=lambda module, _: module.name == f"{block}_2",
        )
        return h, seen["intermediates"]

    h, seen = run(params)
    middle = seen[f"{block}_2"]["__call__"][0]  # a block that halves, and the two of the middle
    np.testing.assert_array_equal(h, middle)
    assert h.shape == (2, 4, 4, 8)
    used = jax.eval_shape(lambda: network.init(jax.random.key(0), IMAGES, LABELS, features=True))
    assert f"{block}_3" in params
    assert f"{block}_3" not in used["params"]
    assert all(
        jax.tree.map(jnp.shape, params[name]) == jax.tree.map(jnp.shape, used["params"][name])
        for name in used["params"]
    )


@pytest.mark.thorough
def test_it_starts_with_equal_logits():
    discriminator, x = models.create(config()), jax.random.normal(jax.random.key(0), (4, 2))
    logits, _ = jax.jit(discriminator.init_with_output)(jax.random.key(1), x, jnp.ones(4))
    np.testing.assert_array_equal(logits, np.zeros((4, 2)))


@pytest.mark.thorough
@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_is_not_trained_but_passes_gradients_in_x(frozen):
    discriminator = models.create(config("somewhere" if frozen else "", dropout=0.5))
    x, labels = jax.random.normal(jax.random.key(0), (4, 2)), jnp.ones(4)
    params = weights.random(discriminator, x, labels)

    def total(params, x, train):
        rngs = {"dropout": jax.random.key(0)}
        logits = discriminator.apply({"params": params}, x, labels, train, rngs=rngs)
        return nn.log_softmax(logits)[:, 1].sum()

    of_params, of_x = jax.jit(
        lambda: (jax.grad(total)(params, x, True), jax.grad(total, 1)(params, x, False))
    )()
    size = {part: max(map(jnp.max, jax.tree.leaves(of_params[part]))) for part in of_params}
    assert size["head"] > 1e-3
    assert (size["encoder"] == 0) == frozen
    assert np.abs(of_x).min(axis=1).min() > 0


def config_of_pair(**changes):
    """A classifier's features of 4 x 4 pixels, and an encoder of these as the head."""
    result = digits.get_config("vp_score_sde")
    own = {"nf": 8, "ch_mult": (1, 1), "num_res_blocks": 1, "attn_resolutions": ()}
    own["pool"] = "adaptive"
    head = {f"head_{name}": value for name, value in own.items()}
    names = {"name": "discriminator", "encoder": "adm_classifier", "head": "adm_classifier"}
    result.data.num_classes = 5
    with result.unlocked():
        for name, value in (own | head | names | changes).items():
            result.model[name] = value
    return result


@pytest.mark.thorough
def test_a_head_can_be_an_encoder_of_the_features_with_classes():
    ours = config_of_pair(head_nf=12, head_ch_mult=[1], class_conditional=True, dtype="bfloat16")
    discriminator = models.create(ours)
    head = discriminator.reader
    assert (head.nf, head.ch_mult, head.num_classes, head.num_outputs) == (12, (1,), 5, 1)
    assert (head.dtype, head.centered, discriminator.encoder.nf) == ("bfloat16", True, 8)
    assert not hasattr(discriminator.encoder, "num_classes")
    params = weights.random(discriminator, IMAGES, LABELS)
    assert "Dense_2" not in params["encoder"]  # the classifier's own last layer
    assert params["head"]["class_embedding"]["kernel"].shape == (5, 48)
    with pytest.raises(
        ValueError, match="with 5 classes was given no class_labels: give an integer"
    ):
        jax.eval_shape(lambda: discriminator.apply({"params": params}, IMAGES, LABELS))

    @jax.jit
    def logits(classes):
        return discriminator.apply({"params": params}, IMAGES, LABELS, class_labels=classes)

    none, some = (logits(jnp.array(classes)) for classes in ((-1, 2), (0, 2)))
    np.testing.assert_array_equal(none[:, 0], 0)
    assert none[1, 1] == some[1, 1]
    assert none[0, 1] != some[0, 1]


@pytest.mark.thorough
def test_the_small_head_sees_classes_beside_the_noise_level():
    """Class -1 is the head without its embedding; an encoder of points has one too."""
    plain, ours = config(""), config("")
    ours.model.class_conditional, ours.data.num_classes = True, 3
    x, labels = jax.random.normal(jax.random.key(0), (2, 2)), jnp.ones(2)
    discriminator = models.create(ours)
    params = weights.random(discriminator, x, labels)
    head = {name: each for name, each in params["head"].items() if name != "class_embedding"}
    assert params["head"]["class_embedding"]["kernel"].shape == (3, 8)

    @jax.jit
    def logits(classes):
        return discriminator.apply({"params": params}, x, labels, class_labels=classes)

    none, some = (logits(jnp.array(classes)) for classes in ((-1, 2), (0, 2)))
    np.testing.assert_array_equal(none[1], some[1])
    assert np.abs(none[0] - some[0]).max() > 1e-3
    without = models.create(plain).apply({"params": params | {"head": head}}, x, labels)
    np.testing.assert_allclose(none[0], without[0], rtol=1e-5)
    with pytest.raises(ValueError, match="class_labels were given to a network without classes"):
        jax.eval_shape(
            lambda: models.create(plain).init(jax.random.key(0), x, labels, class_labels=labels)
        )


def test_the_encoder_gets_the_inputs_of_its_own_training():
    """EDM's network gets c_in x and log(sigma) / 4, a classifier gets x and sigma."""
    ours = digits.get_config("edm")
    sigma, sigma_data, x = jnp.array([0.1, 2.0]), ours.model.sigma_data, IMAGES
    c_in = 1 / jnp.sqrt(sigma**2 + sigma_data**2)
    expected = {"ncsnpp": (c_in[:, None, None, None] * x, jnp.log(sigma) / 4)}
    expected["wideresnet"] = x, sigma
    for encoder, inputs in expected.items():
        ours.model.name, ours.model.encoder = "discriminator", encoder
        seen = models.preconditioning(ours, sde_lib.EDM()).network_inputs(x, sigma)
        for one, other in zip(seen, inputs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder": "wideresnt"}, "config.model.encoder.*did you mean 'wideresnet'"),
        ({"encoder": "ddpm"}, "config.model.encoder 'ddpm' is unknown"),
        ({"class_conditional": True}, "config.data.num_classes is 0: it must be at least 1"),
        ({"text": "bytes"}, "a discriminator sees no text: set it to ''"),
        ({"head": "adm"}, "config.model.head 'adm' is unknown: choose one of adm_classifier"),
    ],
)
def test_encoders_that_it_cannot_have_are_refused(values, message):
    ours = config()
    ours.model.update(values)
    with pytest.raises(ValueError, match=message):
        models.create(ours)
