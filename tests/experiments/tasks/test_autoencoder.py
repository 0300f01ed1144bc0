import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import MESH, first_state, options

from configs import digits
from experiments.build import tasks
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.runs import pictures
from experiments.tasks.autoencoder import Autoencoder, Losses, gaussian_kl
from experiments.training.optimizer import Adam
from experiments.training.step import make_train_step
from sde_lib.batch import sample_keys

WEIGHT, SCALING, ADAM = 0.7, Scaling(17), Adam(warmup=0)


class Tiny(nn.Module):
    """The methods of an autoencoder, with a weight or two each."""

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


def task_of(model, shape=(2, 2, 1), scaling=SCALING, adam=ADAM, **losses):
    """The task of an autoencoder without a perceptual distance."""
    return Autoencoder(model, shape, scaling, Losses(**losses), None, adam, MESH, 4, {})


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
    kl = gaussian_kl(*(values[..., None] for values in shaped))
    np.testing.assert_allclose(kl, [expected], rtol=1e-5)


@pytest.mark.thorough
def test_drawn_latents_have_the_variance_that_the_encoder_gives(x):
    x = jnp.zeros((500, 4, 4, 1))
    model = Tiny(noise=float(np.log(0.09)))
    reconstruct = task_of(model, kl_weight=0.0).reconstruct
    params = params_of(model, x)
    y, about = reconstruct(params, x, jax.random.split(jax.random.key(0), 500))
    assert np.std(y) == pytest.approx(1.2 * 0.3, rel=0.02)
    np.testing.assert_allclose(about["loss"].mean(), 0.36 * np.sqrt(2 / np.pi), rtol=0.03)
    mean, _ = reconstruct(params, x)
    np.testing.assert_array_equal(mean, 0)


@pytest.mark.thorough
def test_terms_of_vq_pull_codes_to_latents_and_latents_to_codes(x):
    model = Tiny("vq")
    reconstruct = task_of(model, commitment=0.25).reconstruct
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


@pytest.mark.thorough
@pytest.mark.parametrize("step", [2, 3])
def test_each_side_of_the_game_has_the_gradient_of_its_own_loss(x, step):
    model = Tiny()
    ours = task_of(model, adversarial_weight=WEIGHT, adversarial_start=3, kl_weight=0.1)
    params, keys = params_of(model, x), {"loss": jax.random.key(1), "step": jnp.asarray(step)}
    grads = jax.grad(lambda params: ours.loss(params, keys, None, 0, x, {})[0])(params)
    draws = sample_keys(keys["loss"], len(x), 0)
    on = float(step >= 3)

    def reconstructed(params):
        return ours.reconstruct(params, x, draws)

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
    adam = Adam(lr=1.0, eps=1.0, warmup=0, grad_clip=1.0)
    optimizer = task_of(Tiny(), adam=adam, adversarial_weight=1.0).optimizer
    grads = {"encoder": jnp.array([0.3]), "discriminator": jnp.array([1e6])}
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    np.testing.assert_allclose(updates["encoder"], -0.3 / 1.3, rtol=1e-5)
    np.testing.assert_allclose(updates["discriminator"], -0.5, rtol=1e-5)


@pytest.mark.thorough
def test_a_train_step_is_the_same_with_microbatches_and_learns():
    """The loss of the tiny one falls by the gradient that it reports."""
    scaling = Scaling(17, dequantize=False)
    ours = task_of(Tiny(noise=-30.0), (8, 8, 1), scaling, kl_weight=0.0)
    grey = jax.random.randint(jax.random.key(0), (4, 8, 8, 1), 0, 17).astype(jnp.uint8)
    state, states = first_state(ours), []
    for n in (1, 2):
        step = make_train_step(ours, options(batch_size=4, n_microbatches=n), MESH)
        states.append(jax.jit(step)(state, grey.reshape(n, 4 // n, 8, 8, 1)))
    (one, about), (two, _) = states
    np.testing.assert_allclose(one.params["encoder"], two.params["encoder"], rtol=1e-6)
    unit = scaling.to_model(jax.random.key(0), grey)
    np.testing.assert_allclose(about["loss"], np.mean(0.16 * np.abs(unit)), rtol=1e-4)
    assert one.params["encoder"] > state.params["encoder"]


@pytest.fixture
def constant():
    """A task, its weights, and a data set whose images are white."""
    grey = np.full((6, 8, 8, 1), 16, np.uint8)
    ours = task_of(Tiny(), (8, 8, 1), kl_weight=0.0)
    return ours, params_of(ours.network, jnp.ones((1, 8, 8, 1))), Dataset(grey, grey, 17)


def test_the_report_is_the_means_over_the_test_set(constant, tmp_path):
    ours, params, dataset = constant
    (line,), figures, _ = ours.reconstruction(params, 1, dataset, tmp_path)
    error = 1 - 0.7 * 1.2
    psnr, kl = 10 * np.log10(4 / error**2), 0.5 * 0.7**2 * 64
    assert line == f"test PSNR {psnr:.1f} dB, KL {kl:.1f} nats, loss {error:.4f}"
    assert figures == {"test set": line}


def test_the_picture_has_images_beside_their_reconstructions(constant, tmp_path, monkeypatch):
    ours, params, dataset = constant
    saved = []
    monkeypatch.setattr(pictures, "save_grid", lambda *grid: saved.append(grid) or grid[0])
    assert ours.pictures(params, 7, dataset, tmp_path) == [
        tmp_path / "samples" / "reconstructions_7.png"
    ]
    _, images, columns, about = saved[0]
    assert (images.shape, columns % 2) == ((12, 8, 8, 1), 0)
    assert (images[::2] == 255).all()
    assert (images[1::2] == np.round((0.84 + 1) / 2 * 255)).all()
    assert "7" in str(about)


@pytest.mark.parametrize(
    ("losses", "field"),
    [
        ({"kl_weight": -1.0}, "kl.weight"),
        ({"commitment": -1.0}, "vq.commitment"),
        ({"perceptual_weight": -1.0}, "perceptual.weight"),
        ({"adversarial_weight": -1.0}, "adversarial.weight"),
        ({"adversarial_start": -1}, "adversarial.start"),
    ],
)
def test_negative_weights_are_refused(losses, field):
    with pytest.raises(ValueError, match=f"config.autoencoder.{field}"):
        Losses(**losses)


def test_the_config_names_the_losses():
    """An option of a loss that is not used is refused."""
    config = digits.get_config("classifier")
    config.model.name = "autoencoder"
    assert tasks.task(config).losses == Losses()
    config.autoencoder.kl.weight = 0.5
    config.autoencoder.adversarial.update(weight=0.7, start=3)
    assert tasks.task(config).losses == Losses(
        kl_weight=0.5, adversarial_weight=0.7, adversarial_start=3
    )
    config.autoencoder.adversarial.weight = None
    with pytest.raises(ValueError, match=r"adversarial.start is 3, which does nothing without"):
        tasks.task(config)
