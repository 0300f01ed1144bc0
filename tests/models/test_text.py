from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.adm import ADM
from models.dit import DiT
from models.ncsnpp import NCSNpp
from models.text import TextEncoder, embed_text, encode

X = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
LABELS = jnp.array([0.5, 3.0])
TEXT = {"text": "bytes", "text_length": 6, "text_width": 8, "text_depth": 1}
NETWORKS = {
    "ncsnpp": NCSNpp(nf=8, ch_mult=(1,), num_res_blocks=0, attn_resolutions=(4,), **TEXT),
    "adm": ADM(nf=8, ch_mult=(1,), num_res_blocks=0, attn_resolutions=(4,), **TEXT),
    "dit": DiT(hidden_size=8, depth=1, num_heads=2, conditioning="cross_attention", **TEXT),
    "dit_beside": DiT(hidden_size=8, depth=1, num_heads=2, conditioning="in_context", **TEXT),
}


def test_captions_are_their_bytes_plus_1():
    expected = [[98, 196, 170, 0], [0, 0, 0, 0], [241, 160, 153, 129]]  # é is C3 A9, ...
    encoded = encode(["aé", "", "😀"], 4)
    assert encoded.dtype == np.int32
    np.testing.assert_array_equal(encoded, expected)


def test_a_caption_that_is_too_long_is_refused_in_bytes():
    with pytest.raises(ValueError, match=r"'ééé' has 6 bytes in UTF-8, .*text_length = 5 at most"):
        encode(["é", "ééé"], 5)


def test_captions_differ_and_padding_is_ignored():
    encoder = TextEncoder("bytes", length=8, width=8, depth=1)
    captions = ["ab", "ba", "abc", ""]
    variables = {"params": weights.random(encoder, encode(captions, 8))}
    apply = jax.jit(encoder.apply)
    long, short = (apply(variables, encode(captions, n)) for n in (8, 3))
    np.testing.assert_array_equal(short.mask.sum(1), [3, 3, 4, 1])
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(long.pooled, short.pooled)
    there = np.asarray(short.mask)
    close(long.tokens[:, :4][there], short.tokens[there])
    distances = np.abs(long.pooled[:, None] - long.pooled).max(-1)
    assert distances[~np.eye(4, dtype=bool)].min() > 1e-3


def test_embeddings_are_projected_and_zeros_are_padding():
    encoder = TextEncoder("embeddings", width=3)
    given = np.random.RandomState(0).standard_normal((2, 4, 3)).astype("f4")
    given[0, 2:] = given[1] = 0
    params = weights.random(encoder, given)
    tokens = given[0, :2] @ params["projection"]["kernel"] + params["projection"]["bias"]
    caption = encoder.apply({"params": params}, given)
    np.testing.assert_array_equal(caption.mask.sum(1), [3, 1])
    expected = (params["first"] + tokens.sum(0)) / 3
    np.testing.assert_allclose(caption.pooled, [expected, params["first"]], rtol=1e-5)


@pytest.mark.parametrize("kind", ["bytes", "embeddings"])
def test_only_tokens_are_bfloat16(kind):
    encoder = TextEncoder(kind, width=8, depth=1, dtype="bfloat16")
    text = encode(["ab"], 3) if kind == "bytes" else jnp.ones((1, 3, 8))
    params = weights.shapes(encoder, text)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    caption = jax.eval_shape(encoder.apply, {"params": params}, text)
    assert (caption.tokens.dtype, caption.pooled.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.thorough
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_use_captions_and_train_their_encoder(name):
    """The padding of the last caption is overwritten, which must not change the output.

    The gradient is that of the layers that captions add.
    """
    network = NETWORKS[name]
    x, labels = jnp.tile(X[:1], (4, 1, 1, 1)), jnp.tile(LABELS[:1], 4)
    params = weights.random(network, x, labels)
    added = {k: v for k, v in params.items() if k.startswith(("text", "CrossAttention"))}
    text = encode(["abc", "", "abcdef", "abc"], 6)

    def replace_padding(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if isinstance(context.module, TextEncoder) and context.method_name == "__call__":
            padding = ~result.mask[..., None] & (jnp.arange(4) == 3)[:, None, None]
            return result._replace(tokens=jnp.where(padding, 100.0, result.tokens))
        return result

    @jax.jit
    def run(added):
        def apply(added):
            with nn.intercept_methods(replace_padding):
                return network.apply({"params": params | added}, x, labels, text=text)

        outputs, vjp = jax.vjp(apply, added)
        return outputs, vjp(jnp.sin(outputs))[0]

    outputs, gradient = run(added)
    first, *others, same = outputs
    np.testing.assert_allclose(same, first, rtol=1e-4, atol=1e-5)
    for other in others:
        assert np.abs(other - first).max() > 2e-3 * np.abs(first).max()
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        keys = jax.tree_util.keystr(path)
        # A key's bias adds the same to all logits; Fourier frequencies are not trained.
        if not keys.endswith(("['key']['bias']", "['NIN_1']['bias']", "['W']")):
            assert np.abs(leaf).max() > 1e-5, keys


@pytest.mark.parametrize("name", ["ncsnpp", "adm", "dit"])
def test_text_adds_layers_and_changes_none(name):
    network = NETWORKS[name].clone(conditioning="adaln_zero") if name == "dit" else NETWORKS[name]
    plain = weights.shapes(network.clone(text=""), X, LABELS)
    reading = weights.shapes(network, X, LABELS)
    assert {layer: reading[layer] for layer in plain} == plain
    added = {layer.rsplit("_", 1)[0] for layer in reading if layer not in plain}
    across = set() if name == "dit" else {"CrossAttention"}
    assert added == {"text"} | across  # "text_encoder" and the like
    for layer in plain:
        assert ("Cross" + layer in reading) == layer.startswith("Attention")


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("", jnp.zeros((2, 6), int), "text was given to a network without text conditioning: omit"),
        ("bytes", None, "text='bytes' was given no text: give zeros for empty captions"),
        ("bytes", jnp.zeros((2, 7), int), r"shape \(2, 7\), .* \(2, at most text_length = 6\)"),
        ("bytes", jnp.zeros((1, 6), int), r"shape \(1, 6\), .* \(2, at most text_length = 6\)"),
        ("bytes", jnp.zeros((2, 6, 8)), r"shape \(2, 6, 8\), .* \(2, at most text_length = 6\)"),
        ("embeddings", jnp.zeros((2, 6)), r"shape \(2, 6\), .* \(2, any, text_width = 8\)"),
        ("embeddings", jnp.zeros((2, 6, 9)), r"shape \(2, 6, 9\), .* \(2, any, text_width = 8\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(getattr(value, "shape", value)),
)
def test_texts_that_are_missing_or_do_not_fit_are_refused(kind, text, message):
    network = SimpleNamespace(**TEXT | {"text": kind}, is_initializing=lambda: False)
    with pytest.raises(ValueError, match=message):
        embed_text(network, 2, text)


@pytest.mark.parametrize("name", ["ncsnpp", "adm", "dit"])
def test_networks_check_their_text(name):
    network, text = NETWORKS[name], jnp.zeros((1, 6), int)
    params = weights.shapes(network, X, LABELS)
    with pytest.raises(ValueError, match=r"shape \(1, 6\), .* \(2, at most"):
        jax.eval_shape(lambda p: network.apply({"params": p}, X, LABELS, text=text), params)
