from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

import models
from configs import digits
from experiments.build.components import specs


def config(**options):
    result = digits.get_config()
    result.model.update(name="autoencoder", nf=4, ch_mult=(1,), num_res_blocks=0)
    result.autoencoder.update(latent_channels=3, **options)
    result.autoencoder.vq.codebook_size = 5
    return result


def initialised(config):
    model = models.create(config)
    x = jax.random.uniform(jax.random.key(1), (2, 4, 4, 1), minval=-1)
    return model, x, {"params": jax.tree.map(jnp.asarray, weights.random(model, x))}


@pytest.mark.thorough
def test_quantisation_takes_the_nearest_code_with_straight_through_gradients():
    model, x, variables = initialised(config(regularization="vq"))
    codebook = np.asarray(variables["params"]["codebook"])
    z = np.random.RandomState(2).standard_normal((2, 2, 2, 3)).astype("f4")
    codes = jax.jit(partial(model.apply, method="quantize"))(variables, z)
    distances = np.linalg.norm(np.asarray(z)[..., None, :] - codebook, axis=-1)
    np.testing.assert_array_equal(codes, codebook[distances.argmin(-1)])
    assert len(np.unique(distances.argmin(-1))) > 1

    @jax.jit
    @jax.value_and_grad
    def value(z):
        return jnp.sum(jnp.sin(model.apply(variables, z, method="decode")))

    at_latents, at_codes = value(z), value(codes)  # codes are their own
    assert at_latents[0] == pytest.approx(float(at_codes[0]), rel=1e-5)
    np.testing.assert_allclose(at_latents[1], at_codes[1], rtol=1e-4, atol=1e-6)
    assert np.abs(at_codes[1]).max() > 1e-3
    assert jax.eval_shape(partial(model.apply, method="encode"), variables, x)[1] is None


@pytest.mark.thorough
def test_uncentred_data_are_rescaled_at_input_and_output():
    ours = config()
    ours.autoencoder.adversarial.weight = 1.0
    model, x, variables = initialised(ours)
    other = model.clone(centered=False)

    @jax.jit
    def both(x):
        y, shifted = model.apply(variables, x), other.apply(variables, (x + 1) / 2)
        logits = model.apply(variables, x, method="discriminate")
        same = other.apply(variables, (x + 1) / 2, method="discriminate")
        return y, 2 * shifted - 1, logits, same

    y, shifted, logits, same = both(x)
    np.testing.assert_allclose(y, shifted, atol=1e-5)
    np.testing.assert_allclose(logits, same, atol=1e-5)
    assert np.std(y) > 0.01
    assert np.std(logits) > 1e-5


@pytest.mark.thorough
@pytest.mark.parametrize(("regularization", "size"), [("kl", 8), ("vq", 16)])
def test_latents_have_the_shape_of_latent_shape(regularization, size):
    ours = config(regularization=regularization)
    ours.model.ch_mult, ours.data.image_size = (1, 2, 1), size
    model, x = models.create(ours), jnp.zeros((2, size, size, 1))

    def latents(key):
        variables = model.init(key, x)
        mean, _ = model.apply(variables, x, method="encode")
        return mean, model.apply(variables, mean, method="decode")

    mean, y = jax.eval_shape(latents, jax.random.key(0))
    assert mean.shape == (2, *specs.latent_shape(ours)) == (2, size // 4, size // 4, 3)
    assert y.shape == x.shape


def test_impossible_autoencoders_are_refused():
    with pytest.raises(ValueError, match=r"config\.autoencoder\.regularization"):
        models.create(config(regularization="gan"))
    ours = config()
    ours.autoencoder.vq.codebook_size = 0
    with pytest.raises(ValueError, match="codebook_size is 0"):
        models.create(ours)
    ours = config()
    ours.model.ch_mult = (1, 2)
    with pytest.raises(ValueError, match="cannot be halved"):
        jax.eval_shape(models.create(ours).init, jax.random.key(0), jnp.zeros((1, 5, 5, 1)))


@pytest.mark.thorough
def test_data_that_are_not_rescaled_are_read_as_they_are():
    """As EDM2 reads latents: images in [0, 1] go to a network of data in [-1, 1]."""
    model, x, variables = initialised(config())
    raw = model.clone(centered=False, rescale=False)
    for method in ("encode", "decode"):
        value = x if method == "encode" else model.apply(variables, x, method="encode")[0]
        expected, got = (m.apply(variables, value, method=method) for m in (model, raw))
        jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.thorough
@pytest.mark.parametrize("wide", [False, True])
def test_transitions_have_the_channels_of_the_narrow_level_or_of_the_wide(wide):
    model = models.autoencoder.Autoencoder(nf=4, ch_mult=(2, 3), wide_transitions=wide)
    shapes = weights.shapes(model, jnp.zeros((1, 4, 4, 3)))
    first = shapes["encoder"]["Conv_0"]["kernel"].shape
    up = shapes["decoder"]["Upsample_0"]["Conv_0"]["kernel"].shape
    assert first == (3, 3, 3, 8 if wide else 4)
    assert up == (3, 3, 12, 12 if wide else 8)
