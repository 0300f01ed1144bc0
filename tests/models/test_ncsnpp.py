import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.layers import with_fourier_features
from models.ncsnpp import NCSNpp

SMALL = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}
SHALLOW = {"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": (), "init_scale": 1.0}
X = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LABELS = jnp.array([0.5, 3.0])


INPUTS = (("none", "sum"), ("residual", "sum"), ("input_skip", "sum"), ("input_skip", "cat"))


@pytest.mark.thorough
@pytest.mark.parametrize("resblock_type", ["ddpm", "biggan"])
@pytest.mark.parametrize("fir", [True, False])
def test_every_combination_builds(resblock_type, fir):
    """All combinations of options that interact.

    progressive_combine is read with "input_skip" only. Embeddings do not interact: they alternate.
    """
    pyramids = itertools.product(("none", "output_skip", "residual"), INPUTS)
    for i, (progressive, (progressive_input, combine)) in enumerate(pyramids):
        network = NCSNpp(
            **SMALL | {"attn_resolutions": (), "num_res_blocks": 0},
            resblock_type=resblock_type,
            fir=fir,
            progressive=progressive,
            progressive_input=progressive_input,
            progressive_combine=combine,
            embedding_type=("fourier", "positional")[(i + i // len(INPUTS)) % 2],
        )
        output, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), X, LABELS)
        assert output.shape == X.shape, network


@pytest.mark.thorough
@pytest.mark.parametrize(
    "fields",
    [
        {"resblock_type": "ddpm", "resamp_with_conv": False, "progressive": "output_skip"},
        {"progressive": "residual", "progressive_input": "residual"},
        {"conditional": False, "skip_rescale": False, "embedding_type": "positional"},
    ],
    ids=str,
)
def test_combinations_run(fields):
    assert np.isfinite(outputs(NCSNpp(**SMALL, init_scale=1.0, **fields), LABELS)).all()


@pytest.mark.thorough
def test_every_parameter_but_the_fourier_frequencies_is_trained():
    network = NCSNpp(
        **SMALL | {"num_res_blocks": 0},
        init_scale=1.0,
        resblock_type="ddpm",
        progressive="residual",
        progressive_input="input_skip",
        progressive_combine="cat",
    )

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: jnp.sum(network.apply({"params": p}, X, LABELS) ** 2))(params)

    grads = gradient(weights.random(network, X, LABELS))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        assert (np.abs(grad).max() > 0) == ("'W'" not in name), name


def outputs(network, *label_sets, inputs=(X,)):
    """The outputs for each input and each set of labels, with given weights."""
    params = {"params": weights.random(network, X, LABELS)}
    run = jax.jit(network.apply)
    return np.stack([run(params, x, labels) for x in inputs for labels in label_sets])


@pytest.mark.thorough
def test_scale_by_sigma_divides_by_the_level_of_a_positional_label():
    """The golden networks check that a Fourier label is the sigma itself."""
    labels, sigma = jnp.array([0.0, 999.0]), np.array([50.0, 0.01])
    network = NCSNpp(**SHALLOW, embedding_type="positional", scale_by_sigma=False)
    plain, scaled = (
        outputs(network.clone(scale_by_sigma=scale), labels)[0] for scale in (False, True)
    )
    np.testing.assert_allclose(scaled, plain / sigma[:, None, None, None], rtol=1e-4)


def test_unconditional_ignores_its_labels():
    network = NCSNpp(**SHALLOW, conditional=False, scale_by_sigma=False)
    first, second = outputs(network, LABELS, 2 * LABELS)
    np.testing.assert_array_equal(first, second)


@pytest.mark.thorough
def test_dropout_acts_in_training_only():
    network = NCSNpp(**SHALLOW, dropout=0.5)
    params = {"params": weights.random(network, X, LABELS)}
    run = jax.jit(network.apply, static_argnames="train")
    (quiet, first), (same, second) = (
        [run(params, X, LABELS, train=train, rngs={"dropout": key}) for train in (False, True)]
        for key in jax.random.split(jax.random.key(0))
    )
    assert np.abs(first - second).max() > 0
    assert np.abs(first - quiet).max() > 0
    np.testing.assert_array_equal(quiet, same)


@pytest.mark.thorough
def test_uncentred_data_is_centred_inside():
    centred = outputs(NCSNpp(**SHALLOW, centered=True), LABELS, inputs=(2 * X - 1,))
    uncentred = outputs(NCSNpp(**SHALLOW, centered=False), LABELS)
    np.testing.assert_allclose(centred, uncentred, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
def test_fourier_features_come_in_beside_the_input():
    network, plain = NCSNpp(**SHALLOW, fourier_features=(1, 3)), NCSNpp(**SHALLOW)
    features = with_fourier_features(X, (1, 3))
    x = np.asarray(X, np.float64)
    angles = [2 * np.pi * x, 8 * np.pi * x]
    expected = np.concatenate([x, *map(np.sin, angles), *map(np.cos, angles)], -1)
    np.testing.assert_allclose(features, expected, atol=1e-5)

    params = weights.random(network, X, LABELS)
    kernel = params["Conv_0"]["kernel"]
    assert kernel.shape == (3, 3, 15, 8)

    @partial(jax.jit, static_argnums=0)
    def run(network, kernel, x):
        first = {"Conv_0": params["Conv_0"] | {"kernel": kernel}}
        return network.apply({"params": params | first}, x, LABELS)

    alone = kernel.copy()
    alone[:, :, 3:] = 0
    without = run(plain, kernel[:, :, :3], X)
    np.testing.assert_allclose(run(network, alone, X), without, atol=1e-5)
    assert np.abs(run(network, kernel, X) - without).max() > 0.1
    kernel[:, :, :3] = 0  # what is left has the period 1
    np.testing.assert_allclose(run(network, kernel, X + 1), run(network, kernel, X), atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("sides", [(8,), (8, 4)], ids=len)
def test_a_periodic_network_moves_with_its_input(sides):
    pyramids = {"progressive": "output_skip", "progressive_input": "input_skip"}
    options = SMALL | {"num_res_blocks": 0, "attn_resolutions": ()} | pyramids
    x = jax.random.normal(jax.random.key(0), (2, *sides, 1))
    moved, axes = jnp.roll(x, (2,) * len(sides), range(1, 1 + len(sides))), range(1, 1 + len(sides))
    for periodic in (False, True):
        network = NCSNpp(**options, init_scale=1.0, scale_by_sigma=False, periodic=periodic)
        params = {"params": weights.random(network, x, LABELS)}
        ours, theirs = (jax.jit(network.apply)(params, each, LABELS) for each in (x, moved))
        error = np.abs(theirs - jnp.roll(ours, (2,) * len(sides), axes)).max()
        assert (error < 1e-4 * np.abs(ours).max()) == periodic


@pytest.mark.parametrize("fields", [{"resblock_type": "ddpm"}, {"progressive_input": "residual"}])
def test_a_periodic_network_without_periodic_resampling_is_refused(fields):
    with pytest.raises(
        ValueError, match=r"config.model.periodic is True, .* config.model.resblock_type"
    ):
        NCSNpp(**{"progressive_input": "none"} | fields, periodic=True)


def test_a_size_that_cannot_be_halved_is_refused():
    network = NCSNpp(**(SMALL | {"ch_mult": (1, 1, 1, 1)}))
    with pytest.raises(ValueError, match="28 x 28 pixels cannot be halved 3 times"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)), jnp.ones(1))
