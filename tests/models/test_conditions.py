from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.adm import ADM
from models.conditions import encode
from models.dit import DiT
from models.mlp import MLP
from models.ncsnpp import NCSNpp

X = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
LABELS = jnp.array([0.5, 3.0, 1.0, 1.0])
NETWORKS = {
    "ncsnpp": NCSNpp(nf=8, ch_mult=(1,), num_res_blocks=0, embedding_type="positional"),
    "adm": ADM(nf=8, ch_mult=(1,), num_res_blocks=0),
    "dit": DiT(hidden_size=8, depth=1, num_heads=2),
    "mlp": MLP(nf=8, num_res_blocks=1),
}
IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 2))
KINDS = {  # the network's field, values, and their nulls
    "vectors": ({"vector_dim": 2}, jnp.array([[0.0, 0], [1, 0], [1, 2], [-1, 0]]), jnp.nan),
    "attributes": ({"attributes": (2, 3)}, jnp.array([[0, 0], [1, 0], [1, 2], [1, -1]]), -1),
    "images": ({"image_channels": 2}, IMAGES, jnp.nan),
}
PAIRS = [(n, k) for n in NETWORKS for k in KINDS if (n, k) != ("mlp", "images")]


def samples(name):
    return X[:, 0, 0] if name == "mlp" else X


@pytest.mark.parametrize(("name", "keyword"), PAIRS)
def test_a_condition_changes_the_output_of_its_own_sample_alone(name, keyword):
    """Its null is another value than all others, also than zeros, the mean of the data."""
    fields, values, null = KINDS[keyword]
    network, x = NETWORKS[name].clone(**fields), samples(name)
    params = weights.random(network, x, LABELS)

    @jax.jit
    def run(values):
        return network.apply({"params": params}, x, LABELS, **{keyword: values})

    out, others = run(values), run(values[::-1])
    unknown = run(jnp.full_like(values, null))
    least = 1e-3 * np.abs(out).max()
    different = np.abs(out - unknown).reshape(4, -1).max(axis=1)
    assert different.min() > least
    assert np.abs(run(jnp.zeros_like(values)) - unknown).reshape(4, -1).max(axis=1).min() > least
    assert np.abs(out - others).max() > least
    changed = run(values.at[0].set(null))
    np.testing.assert_allclose(changed[1:], out[1:], rtol=1e-5, atol=1e-6)
    assert np.isfinite(unknown).all()


@pytest.mark.parametrize(("name", "keyword"), PAIRS)
def test_a_condition_adds_layers_and_changes_no_other(name, keyword):
    fields, *_ = KINDS[keyword]
    x = samples(name)
    plain = weights.shapes(NETWORKS[name], x, LABELS)
    seeing = weights.shapes(NETWORKS[name].clone(**fields), x, LABELS)
    of_images = {"ncsnpp": {"Conv_0"}, "adm": {"Conv_0"}, "dit": {"patches"}}
    wider = {"Conv_0", "patches", "Downsample_0", "Conv_1"} if keyword == "images" else set()
    assert {layer: seeing[layer] for layer in plain if layer not in wider} == {
        layer: shape for layer, shape in plain.items() if layer not in wider
    }
    added = seeing.keys() - plain.keys()
    assert (
        added
        == {
            "vectors": {"vector_encoder", "vector_embedding"},
            "attributes": {"attribute_embedding"},
            "images": set(),
        }[keyword]
    )
    if keyword == "images":
        assert all(seeing[layer] != plain[layer] for layer in of_images[name])


def test_vectors_are_conditioned_on_captions():
    network = MLP(nf=8, num_res_blocks=1, text="bytes", text_length=4, text_width=8)
    x = samples("mlp")
    params = weights.random(network, x, LABELS)
    text = jnp.array([[1, 2, 3, 0], [1, 2, 3, 0], [5, 0, 0, 0], [0, 0, 0, 0]])
    same = jnp.broadcast_to(x[:1], x.shape), jnp.ones(4)
    out = jax.jit(lambda text: network.apply({"params": params}, *same, text=text))(text)
    np.testing.assert_allclose(out[0], out[1], rtol=1e-5)
    assert np.abs(out[1:] - out[0]).max(axis=1)[1:].min() > 1e-3 * np.abs(out).max()


def test_attributes_can_be_unknown_one_by_one():
    fields, *_ = KINDS["attributes"]
    network = SimpleNamespace(**fields, nf=8, is_initializing=lambda: False)
    codes = encode(network, X[:2], {"attributes": jnp.array([[1, -1], [-1, 2]])}).features
    expected = np.array([[0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]) * np.sqrt(5 / 2)
    np.testing.assert_allclose(codes["attribute"], expected, rtol=1e-6)


def test_an_image_comes_with_a_mask_of_its_known_places():
    network = SimpleNamespace(image_channels=2, nf=8, is_initializing=lambda: False)
    images = IMAGES.at[0, :4, :, 1].set(jnp.nan).at[1].set(jnp.nan)
    x = encode(network, X, {"images": images}).x
    np.testing.assert_array_equal(x[..., :3], X)
    np.testing.assert_array_equal(x[2:, ..., 3:5], IMAGES[2:])
    np.testing.assert_array_equal(x[1, ..., 3:], 0)
    np.testing.assert_array_equal(x[0, ..., 5], np.repeat([0.0, 1.0], 4)[:, None] * np.ones(8))
    np.testing.assert_array_equal(x[0, 4:, :, 3:5], IMAGES[0, 4:])


@pytest.mark.parametrize("keyword", KINDS)
def test_conditions_that_are_missing_or_do_not_fit_are_refused(keyword):
    fields, values, _ = KINDS[keyword]
    network = SimpleNamespace(**fields, nf=8, is_initializing=lambda: False)
    with pytest.raises(ValueError, match=f"was given no {keyword}"):
        encode(network, X, {})
    with pytest.raises(ValueError, match=f"{keyword} has the shape .*, but must have"):
        encode(network, X, {keyword: values[..., :1]})
    bare = SimpleNamespace(nf=8, is_initializing=lambda: False)
    with pytest.raises(ValueError, match=f"{keyword} were given to a network without them"):
        encode(bare, X, {keyword: values})


def test_an_unknown_keyword_is_refused():
    params = weights.shapes(NETWORKS["mlp"], samples("mlp"), LABELS)
    with pytest.raises(ValueError, match=r"label was given to the network MLP, .* class_labels"):
        jax.eval_shape(
            lambda p: NETWORKS["mlp"].apply({"params": p}, samples("mlp"), LABELS, label=LABELS),
            params,
        )
