import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from experiments import build
from experiments.commands import train
from experiments.data import data
from experiments.tasks import autoencoder
from experiments.training.state import init_state

WEIGHT = 0.7


class Tiny(nn.Module):
    """What an autoencoder can be asked for, as small as can be."""

    regularization: str = "kl"
    noise: float = 0.0

    @nn.compact
    def __call__(self, x, labels=None, train=False, part="all"):
        w = self.param("encoder", nn.initializers.constant(0.7), (1,))
        v = self.param("decoder", nn.initializers.constant(1.2), (1,))
        d = self.param("discriminator", nn.initializers.constant(0.4), (2,))
        codebook = self.param("codebook", lambda _: jnp.array([-0.5, 0.6]))
        nearest = codebook[jnp.argmin(jnp.abs(x[..., None] - codebook), axis=-1)]
        if part == "encode":
            return w * x, (None if self.regularization == "vq" else self.noise + 0 * x)
        if part == "quantize":
            return nearest
        if part == "discriminate":
            return d[0] * x + d[1] * x**2
        return v * (x + jax.lax.stop_gradient(nearest - x) if self.regularization == "vq" else x)

    def encode(self, x):
        return self(x, part="encode")

    def decode(self, z):
        return self(z)

    def quantize(self, z):
        return self(z, part="quantize")

    def discriminate(self, x):
        return self(x, part="discriminate")


def config(**options):
    result = digits.get_config()
    result.model.name = "autoencoder"
    result.autoencoder.update(**options)
    return result


@pytest.fixture
def x():
    return jax.random.uniform(jax.random.key(3), (4, 2, 2, 1), minval=-1)


def params_of(model, x):
    return model.init(jax.random.key(0), x)["params"]


def test_the_divergence_is_the_integral():
    """E[log q - log p] over the Gaussian q, by Gauss and Hermite: exact for a quadratic."""
    means, log_variances = np.array([0.3, -2.0, 0.0]), np.array([-1.0, 0.5, 0.0])
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    z = means[:, None] + np.exp(0.5 * log_variances)[:, None] * nodes
    difference = 0.5 * (z**2 - nodes**2 - log_variances[:, None])
    expected = (difference * weights).sum() / weights.sum()
    shaped = (jnp.asarray(values, jnp.float32)[None, None] for values in (means, log_variances))
    kl = autoencoder.gaussian_kl(*(values[..., None] for values in shaped))
    np.testing.assert_allclose(kl, [expected], rtol=1e-5)


def test_drawn_latents_have_the_variance_that_the_encoder_gives(x):
    x = jnp.zeros((500, 4, 4, 1))
    model = Tiny(noise=float(np.log(0.09)))
    ours = config(kl_weight=0.0)
    reconstruct = autoencoder.make_reconstruct(ours, model)
    params = params_of(model, x)
    y, about = reconstruct(params, x, jax.random.split(jax.random.key(0), 500))
    assert np.std(y) == pytest.approx(1.2 * 0.3, rel=0.02)
    np.testing.assert_allclose(about["loss"].mean(), 0.36 * np.sqrt(2 / np.pi), rtol=0.03)
    mean, _ = reconstruct(params, x)
    np.testing.assert_array_equal(mean, 0)


def test_terms_of_vq_pull_codes_to_latents_and_latents_to_codes(x):
    model = Tiny("vq")
    ours = config(regularization="vq", commitment=0.25)
    reconstruct = autoencoder.make_reconstruct(ours, model)
    params = params_of(model, x)

    def loss(params):
        return jnp.mean(reconstruct(params, x)[1]["loss"])

    grads, z = jax.grad(loss)(params), 0.7 * np.asarray(x)
    book = np.array([-0.5, 0.6])
    which = np.abs(z[..., None] - book).argmin(-1)
    codes = book[which]
    pull = [2 * np.sum((codes - z)[which == k]) / z.size for k in range(2)]
    np.testing.assert_allclose(grads["codebook"], pull, rtol=1e-4)
    straight = np.sign(1.2 * codes - x) * 1.2 * np.asarray(x)
    commitment = 0.25 * 2 * (z - codes) * np.asarray(x)
    np.testing.assert_allclose(grads["encoder"], [np.mean(straight + commitment)], rtol=1e-4)


@pytest.mark.parametrize("step", [2, 3])
def test_each_side_of_the_game_has_the_gradient_of_its_own_loss(x, step):
    model = Tiny()
    options = {"adversarial_weight": WEIGHT, "adversarial_start": 3, "kl_weight": 0.1}
    objective = autoencoder.make_objective(config(**options), model)
    params, keys = params_of(model, x), {"loss": jax.random.key(1), "step": jnp.asarray(step)}
    grads = jax.grad(objective)(params, keys, 0, x, {})
    draws = autoencoder.sample_keys(keys["loss"], len(x), 0)
    on = float(step >= 3)

    def reconstructed(params):
        return autoencoder.make_reconstruct(config(**options), model)(params, x, draws)

    def generator(own):
        y, about = reconstructed(params | own)
        fooled = params["discriminator"][0] * y + params["discriminator"][1] * y**2
        return jnp.mean(about["loss"]) - on * WEIGHT * jnp.mean(fooled)

    def discriminator(d):
        y, _ = reconstructed(params)
        real, made = d[0] * x + d[1] * x**2, d[0] * y + d[1] * y**2
        return on * 0.5 * jnp.mean(jnp.maximum(0, 1 - real) + jnp.maximum(0, 1 + made))

    own = {name: params[name] for name in ("encoder", "decoder")}
    for name, expected in jax.grad(generator)(own).items():
        np.testing.assert_allclose(grads[name], expected, rtol=1e-5)
    expected = jax.grad(discriminator)(params["discriminator"])
    np.testing.assert_allclose(grads["discriminator"], expected, rtol=1e-5)
    assert np.any(expected) == (step == 3)


def test_the_two_sides_are_clipped_apart(x):
    ours = config(adversarial_weight=1.0)
    ours.optim.update(grad_clip=1.0, warmup=0, eps=1.0, lr=1.0)
    optimizer = build.make_optimizer(ours)
    grads = {"encoder": jnp.array([0.3]), "discriminator": jnp.array([1e6])}
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    np.testing.assert_allclose(updates["encoder"], -0.3 / 1.3, rtol=1e-5)
    np.testing.assert_allclose(updates["discriminator"], -0.5, rtol=1e-5)


def test_a_train_step_is_the_same_with_microbatches_and_learns(x):
    """As other models' it is: here the tiny one's loss falls by the gradient that it reports."""
    ours = config(kl_weight=0.0)
    ours.data.uniform_dequantization = False
    ours.training.batch_size = 4
    ours.optim.warmup = 0
    grey = jax.random.randint(jax.random.key(0), (1, 4, 8, 8, 1), 0, 17).astype(jnp.uint8)
    model, states = Tiny(noise=-30.0), []
    state = init_state(ours, model)
    for n in (1, 2):
        ours.training.n_microbatches = n
        step = train.make_train_step(ours, model, 17)
        states.append(jax.jit(step)(state, grey.reshape(n, 4 // n, 8, 8, 1)))
    (one, about), (two, _) = states
    np.testing.assert_allclose(one.params["encoder"], two.params["encoder"], rtol=1e-6)
    unit = data.to_model_space(ours, 17, jax.random.key(0), grey, False)
    np.testing.assert_allclose(about["loss"], np.mean(0.16 * np.abs(unit)), rtol=1e-4)
    assert one.params["encoder"] > state.params["encoder"]


def test_the_report_is_the_means_over_the_test_set():
    ours = config(kl_weight=0.0)
    grey = np.full((6, 8, 8, 1), 16, np.uint8)
    model = Tiny(noise=0.0)
    params = params_of(model, jnp.ones((1, 8, 8, 1)))
    text = autoencoder.report(ours, model, params, data.Dataset(grey, grey, 17))
    error = 1 - 0.7 * 1.2
    psnr, kl = 10 * np.log10(4 / error**2), 0.5 * 0.7**2 * 64
    assert text == f"test PSNR {psnr:.1f} dB, KL {kl:.1f} nats, loss {error:.4f}"
