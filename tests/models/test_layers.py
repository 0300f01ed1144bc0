from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.adm import ADM
from models.conditions import concatenate_low_res, encode_labels
from models.ddpm import DDPM
from models.dit import DiT
from models.edm2 import EDM2
from models.layers import (
    Attention,
    attend,
    attend_in_parts,
    attention_route,
    convolve_dilated,
    level_sigma,
)
from models.ncsnpp import NCSNpp
from models.ncsnv2 import NCSNv2
from models.wideresnet import WideResNet

X = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LABELS = jnp.array([0.5, 3.0])


CONDITIONAL = {
    "ncsnpp": NCSNpp(nf=8, ch_mult=(1,), num_res_blocks=0, embedding_type="positional"),
    "adm": ADM(nf=8, ch_mult=(1,), num_res_blocks=0),
    "dit": DiT(hidden_size=8, depth=1, num_heads=2),
}


class OneStage(NCSNv2):
    stages = NCSNv2.stages[:1]


NETWORKS = {
    "ncsnpp": NCSNpp(nf=8, ch_mult=(1,), num_res_blocks=0, dropout=0.5),
    "adm": ADM(nf=8, ch_mult=(1,), num_res_blocks=0, dropout=0.5),
    "edm2": EDM2(nf=8, ch_mult=(1,), num_res_blocks=0, dropout=0.5),
    "dit": DiT(hidden_size=8, depth=2, num_heads=2, dropout=0.5),
    "ddpm": DDPM(nf=8, ch_mult=(1, 1), num_res_blocks=1),
    "ncsnv2": OneStage(nf=4, scale_by_sigma=False),
    "wideresnet": WideResNet(blocks_per_group=1, channel_multiplier=1),
}


def test_levels_run_from_sigma_max_to_sigma_min_and_are_geometric_in_between():
    sigma = level_sigma(jnp.array([0.0, 4.5, 9.0]), 0.01, 1.0, num_scales=10)
    np.testing.assert_allclose(sigma, [1.0, 0.1, 0.01], rtol=1e-6)


def test_one_level_is_too_few():
    with pytest.raises(ValueError, match=r"config\.model\.num_scales is 1: it must be at least 2"):
        level_sigma(jnp.zeros(1), 0.01, 1.0, num_scales=1)


def forward(network, remat):
    """(params, x) -> the output in training."""
    network, rngs = network.clone(remat=remat), {"dropout": jax.random.key(1)}
    return lambda params, x: network.apply({"params": params}, x, LABELS, train=True, rngs=rngs)


@pytest.mark.thorough
@pytest.mark.parametrize("name", NETWORKS)
def test_remat_keeps_the_parameters_and_few_activations(name):
    """Measured: a fourth to a seventh, counted before XLA, whose CPU compiler undoes the saving."""
    network = NETWORKS[name]
    params = weights.shapes(network, X, LABELS)
    assert weights.shapes(network.clone(remat=True), X, LABELS) == params

    def kept(remat):
        backward = jax.eval_shape(lambda p: jax.vjp(forward(network, remat), p, X)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward) if leaf.shape[:1] == X.shape[:1])

    assert kept(True) < kept(False) / 3


@pytest.mark.parametrize(
    "name", ["dit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ncsnpp", "ncsnv2"))]
)
def test_remat_changes_no_output_and_no_derivative(name):
    """Outputs with dropout, gradients, and the tangents that likelihoods need."""
    network = NETWORKS[name]

    @jax.jit
    def derivatives(params):
        def run(remat):
            apply = forward(network, remat)
            output, vjp = jax.vjp(lambda p: apply(p, X), params)
            _, tangent = jax.jvp(lambda x: apply(params, x), (X,), (X[::-1],))
            return output, tangent, vjp(output)

        return run(remat=True), run(remat=False)

    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, *derivatives(weights.random(network, X, LABELS)))


def test_heads_attend_side_by_side():
    x = np.random.RandomState(0).standard_normal((2, 2, 3, 8)).astype("f4")
    attention = Attention(skip_rescale=False, init_scale=1.0, group_size=8, heads=2)
    values = weights.random(attention, x)
    params = jax.tree.map(np.float64, values)
    y = x.reshape(2, 6, 8).astype(np.float64)
    y = (y - y.mean((1, 2), keepdims=True)) / np.sqrt(y.var((1, 2), keepdims=True) + 1e-6)
    y = y * params["GroupNorm_0"]["scale"] + params["GroupNorm_0"]["bias"]
    q, k, v = (y @ params[f"NIN_{i}"]["kernel"] + params[f"NIN_{i}"]["bias"] for i in range(3))
    heads = []
    for channels in (slice(0, 4), slice(4, 8)):
        logits = q[..., channels] @ k[..., channels].swapaxes(1, 2) / np.sqrt(4)
        probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        heads.append(probabilities @ v[..., channels])
    y = np.concatenate(heads, -1) @ params["NIN_3"]["kernel"] + params["NIN_3"]["bias"]
    output = attention.apply({"params": values}, x)
    np.testing.assert_allclose(output, x + y.reshape(x.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "shape", "capability", "route"),
    [
        ("bfloat16", (256, 64), "8.0", "cudnn"),
        ("bfloat16", (256, 256), "9.0", "cudnn"),
        ("bfloat16", (256, 256), "8.0", "xla"),
        ("bfloat16", (256, 256), "10.0", "xla"),
        ("bfloat16", (256, 128), "10.0", "cudnn"),
        ("bfloat16", (256, 64), "7.5", "xla"),
        ("bfloat16", (256, 60), "9.0", "xla"),
        ("bfloat16", (1, 64), "9.0", "xla"),
        ("float32", (256, 64), "9.0", "xla"),
        ("bfloat16", (256, 64), None, "xla"),
    ],
)
def test_attention_is_cudnn_s_where_its_kernels_fit(dtype, shape, capability, route):
    platform = "cuda 12090" if capability else "cpu"
    client = SimpleNamespace(platform_version=platform)
    device = SimpleNamespace(client=client, compute_capability=capability)
    positions, channels = shape
    queries = jax.ShapeDtypeStruct((2, positions, 3, channels), dtype)
    assert attention_route(queries, device) == route


def test_convolve_dilated_is_xla_s_convolution_of_dilated_input():
    x, kernel = (
        np.random.RandomState(i).standard_normal(shape).astype("f4")
        for i, shape in enumerate([(2, 4, 3, 5), (3, 3, 5, 2)])
    )
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((2, 2), (2, 2)), (2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(convolve_dilated(x, kernel), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("name", CONDITIONAL)
def test_no_class_and_no_augmentation_are_no_condition(name):
    """The golden networks check the encodings of classes and augmentations."""
    plain = CONDITIONAL[name]
    network = plain.clone(num_classes=3, augment_dim=2)
    params = weights.random(network, X, LABELS)
    others = {layer: values for layer, values in params.items() if "embedding" not in layer}
    if "bias" in params["class_embedding"]:
        params["class_embedding"]["bias"] *= 0
    none, known = jnp.array([-1, -1]), jnp.array([0, 2])
    zeros, ones = jnp.zeros((2, 2)), jnp.ones((2, 2))
    apply = partial(jax.jit(network.apply), {"params": params}, X, LABELS)
    expected = jax.jit(plain.apply)({"params": others}, X, LABELS)
    for conditions in ({}, {"augment_labels": zeros}):
        output = apply(class_labels=none, **conditions)
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    for classes, augments in ((known, zeros), (none, ones)):
        output = apply(class_labels=classes, augment_labels=augments)
        assert np.abs(output - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.thorough
@pytest.mark.parametrize("name", CONDITIONAL)
def test_confidence_changes_the_output_of_a_class_only(name):
    """The layers of a network without confidences stay as they are, in number and shape."""
    plain = CONDITIONAL[name].clone(num_classes=3)
    network = plain.clone(label_confidence=True)
    params = weights.random(network, X, LABELS)
    others = {layer: value for layer, value in params.items() if layer != "confidence_embedding"}
    assert jax.tree.map(jnp.shape, others) == jax.tree.map(
        jnp.shape, weights.shapes(plain, X, LABELS)
    )
    known, none, low, high = (
        jnp.array(values) for values in ([0, 2], [-1, -1], [0.0, 0.0], [1.0, 0.3])
    )

    @jax.jit
    def run(params, classes, confidences):
        conditions = {"class_labels": classes, "confidences": confidences}
        return network.apply({"params": params}, X, LABELS, **conditions)

    unsure, sure = run(params, known, low), run(params, known, high)
    nothing = run(params, none, low)
    np.testing.assert_array_equal(nothing, run(params, none, high))
    params["confidence_embedding"]["kernel"] *= 0
    expected = jax.jit(plain.apply)({"params": others}, X, LABELS, class_labels=known)
    np.testing.assert_allclose(run(params, known, high), expected, rtol=1e-4, atol=1e-5)
    least = 1e-2 * np.abs(expected).max()
    assert np.abs(sure - unsure).max(axis=(1, 2, 3)).min() > least
    assert np.abs(unsure - nothing).max(axis=(1, 2, 3)).min() > least


@pytest.mark.thorough
@pytest.mark.parametrize("name", CONDITIONAL)
def test_confidence_changes_the_output_of_a_caption_only(name):
    """Of a network that knows text and no classes; the empty caption has none."""
    options = {"text": "bytes", "text_length": 4, "text_width": 8, "text_depth": 1}
    network = CONDITIONAL[name].clone(label_confidence=True, **options)
    params = weights.random(network, X, LABELS)

    @jax.jit
    def run(text, confidences):
        given = {"text": jnp.array(text), "confidences": jnp.array(confidences)}
        return network.apply({"params": params}, X, LABELS, **given)

    known, none = [[1, 2, 0, 0], [3, 0, 0, 0]], [[0] * 4] * 2
    sure, unsure = run(known, [1.0, 0.3]), run(known, [0.0, 0.0])
    assert np.abs(sure - unsure).max(axis=(1, 2, 3)).min() > 1e-3 * np.abs(sure).max()
    np.testing.assert_array_equal(run(none, [1.0, 0.3]), run(none, [0.0, 0.0]))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ncsnpp", "adm"])
def test_low_resolution_image_and_its_noise_level_condition_the_output(name):
    """With zero weights for them, it is the network without low_res."""
    network = CONDITIONAL[name].clone(low_res=True)
    params = weights.random(network, X, LABELS)
    kernel = params["Conv_0"]["kernel"]
    others = {layer: values for layer, values in params.items() if layer != "low_res_embedding"}
    others["Conv_0"] = params["Conv_0"] | {"kernel": kernel[:, :, : X.shape[-1]]}
    blind = jax.tree.map(jnp.copy, params)
    blind["Conv_0"]["kernel"] = kernel * (np.arange(kernel.shape[2]) < X.shape[-1])[:, None]
    blind["low_res_embedding"]["kernel"] *= 0

    @jax.jit
    def run(params, low_res, noise):
        conditions = {"low_res": low_res, "low_res_noise": noise}
        return network.apply({"params": params}, X, LABELS, **conditions)

    noise, more_noise = jnp.array([0.0, 0.1]), jnp.array([0.2, 0.3])
    expected = jax.jit(CONDITIONAL[name].apply)({"params": others}, X, LABELS)
    np.testing.assert_allclose(run(blind, X[::-1], more_noise), expected, rtol=1e-4, atol=1e-5)
    seen = run(params, X[::-1], noise)
    for output in (run(params, X[::-1], more_noise), run(params, X, noise)):
        assert np.abs(output - seen).max(axis=(1, 2, 3)).min() > 1e-2 * np.abs(seen).max()


@pytest.mark.parametrize(
    ("takes", "given", "message"),
    [
        (False, (None, jnp.ones(2)), r"takes low_res and low_res_noise, both .* \(here: False\)"),
        (True, (X, None), r"takes low_res and low_res_noise, both .* \(here: True\)"),
        (True, (X[:, ::2], jnp.ones(2)), r"shape \(2, 4, 8, 3\) .* must have \(2, 8, 8, 3\)"),
    ],
)
def test_a_low_resolution_image_that_is_missing_or_unknown_is_refused(takes, given, message):
    network = SimpleNamespace(low_res=takes, is_initializing=lambda: False)
    with pytest.raises(ValueError, match=message):
        concatenate_low_res(network, X, *given)


@pytest.mark.parametrize(
    ("fields", "given", "message"),
    [
        ({"num_classes": 3}, {}, "3 classes was given no class_labels: give an integer"),
        ({}, {"class_labels": [0, 1]}, "class_labels were given to a network without classes"),
        ({}, {"augment_labels": [[0.0]] * 2}, "augment_labels were given to a network without"),
        (
            {"num_classes": 3},
            {"class_labels": [[1, 0, 0]] * 2},
            r"class_labels has the shape \(2, 3\), but must have \(2,\)",
        ),
        (
            {"augment_dim": 9},
            {"augment_labels": [[0.0]] * 2},
            r"shape \(2, 1\), .* \(2, 9\)",
        ),
        ({}, {"confidences": [0.0, 1.0]}, r"takes confidences .*\(here: False\), .* given"),
        (
            {"num_classes": 3, "label_confidence": True},
            {"class_labels": [0, 1]},
            r"takes confidences .*\(here: True\), .* omitted",
        ),
    ],
    ids=str,
)
def test_conditions_that_are_missing_or_unknown_are_refused(fields, given, message):
    plain = {"num_classes": 0, "augment_dim": 0, "label_confidence": False}
    network = SimpleNamespace(is_initializing=lambda: False, nf=8, **plain | fields)
    labels = [
        jnp.array(given[name]) if name in given else None
        for name in ("class_labels", "augment_labels", "confidences")
    ]
    with pytest.raises(ValueError, match=message):
        encode_labels(network, 2, *labels)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_networks_check_their_conditions(name):
    network = CONDITIONAL[name].clone(num_classes=3, augment_dim=2, label_confidence=True)
    given = {
        "class_labels": jnp.zeros(2, int),
        "augment_labels": jnp.zeros((2, 2)),
        "confidences": jnp.zeros(2),
    }
    params = weights.shapes(network, X, LABELS)

    def call(params, **conditions):
        return network.apply({"params": params}, X, LABELS, **conditions)

    for condition, labels in given.items():
        with pytest.raises(ValueError, match=rf"{condition} has the shape \(1"):
            jax.eval_shape(call, params, **given | {condition: labels[:1]})


@pytest.mark.thorough
def test_a_tpu_attends_in_parts_where_all_weights_would_leave_its_core():
    many, few = (jax.random.normal(jax.random.key(0), (3, 2, n, 3, 4)) for n in (512, 256))

    def text(qkv, platform):
        return jax.jit(attend).trace(*qkv).lower(lowering_platforms=(platform,)).as_text()

    assert "x512x512xf32" in text(many, "cuda")
    assert "x512x512xf32" not in text(many, "tpu")
    assert "x256x512xf32" in text(many, "tpu")
    assert "stablehlo.while" not in text(few, "tpu")

    def derivative(attention):
        return jax.grad(lambda qkv: jnp.sum(jnp.sin(3 * attention(*qkv))))(many)

    np.testing.assert_allclose(attend_in_parts(*many), attend(*many), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(derivative(attend_in_parts), derivative(attend), atol=1e-5)
