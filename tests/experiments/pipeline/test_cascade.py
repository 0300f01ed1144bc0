import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from experiments import build
from experiments.commands import train
from experiments.data import data
from experiments.evaluation import held_out, likelihood
from experiments.pipeline import cascade, sample
from experiments.runs import workdir as workdirs
from experiments.training.state import TrainState
from sde_lib.batch import expand

SIDE, SMALL, LEVELS = 4, 2, 256
PIXELS = (SIDE // SMALL) ** 2  # of a block
STD = 0.3


@pytest.fixture
def config():
    result = digits.get_config()
    result.data.image_size, result.model.low_res_size = SIDE, SMALL
    result.model.low_res_noise = 0.5
    result.data.uniform_dequantization = False
    result.sampling.update(method="heun", n_steps=40, batch_size=512)
    return result


def posterior(low_res, noise):
    """The mean and, over std^2, the variance of blocks' means given noisy ones."""
    gain = STD**2 / (STD**2 + PIXELS * noise**2)
    return gain * low_res, 1 - gain


class Larger:
    """The network whose score is that of independent pixels, N(0, 0.3^2), given their means."""

    def apply(self, variables, x, labels, train, rngs, low_res, low_res_noise):
        sde = build.make_sde(digits.get_config())
        alpha, sigma, noise = (
            expand(a, x) for a in (sde.alpha(labels / 999), sde.sigma(labels / 999), low_res_noise)
        )
        mean, variance = posterior(low_res, noise)
        blocks = cascade.larger(cascade.smaller(x, SMALL), SIDE)
        within = (x - blocks) / ((alpha * STD) ** 2 + sigma**2)
        of_means = (blocks - alpha * mean) / ((alpha * STD) ** 2 * variance + sigma**2)
        return sigma * (within + of_means)


class Smaller:
    """The network whose score is that of N(0.1, 0.2^2), for a base run."""

    def apply(self, variables, x, labels, train, rngs):
        sde = build.make_sde(digits.get_config())
        alpha, sigma = (expand(a, x) for a in (sde.alpha(labels / 999), sde.sigma(labels / 999)))
        return sigma * (x - alpha * 0.1) / ((alpha * 0.2) ** 2 + sigma**2)


def images(n, seed=0):
    return np.random.RandomState(seed).randint(0, LEVELS, (n, SIDE, SIDE, 1)).astype(np.uint8)


def means(x):
    """Over blocks of 2 x 2, in plain numpy."""
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / PIXELS


def test_the_smaller_image_is_means_and_the_larger_one_repeats_them(config):
    x = jax.random.normal(jax.random.key(0), (3, SIDE, SIDE, 2))
    told = cascade.told_of(config, jax.random.key(1), x, 0, noise=0.0)
    np.testing.assert_allclose(told["low_res"][:, ::2, ::2], means(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(told["low_res"][:, 1::2, 1::2], told["low_res"][:, ::2, ::2])
    np.testing.assert_array_equal(told["low_res_noise"], np.zeros(3))
    config.model.low_res_size = 0
    assert cascade.told_of(config, jax.random.key(1), x, 0) == {}


def test_the_noise_has_the_level_that_is_told_whatever_the_batch(config):
    key, x = jax.random.key(1), jnp.zeros((4000, SIDE, SIDE, 1))
    told = cascade.told_of(config, key, x, 0)
    level = told["low_res_noise"]
    assert level.min() >= 0
    assert level.max() <= 0.5
    assert level.std() == pytest.approx(0.5 / np.sqrt(12), rel=0.03)
    z = told["low_res"][:, ::2, ::2] / level[:, None, None, None]
    assert (z.mean(), z.std()) == pytest.approx((0, 1), abs=0.03)
    assert abs(np.corrcoef(np.abs(z[:, 0, 0, 0]), level)[0, 1]) < 0.06
    later = cascade.told_of(config, key, x[:10], 3990)
    for name, value in later.items():
        np.testing.assert_allclose(value, told[name][3990:], rtol=1e-6)


class Repeats:
    """A network that takes the image for what it is told, times a parameter."""

    def apply(self, variables, x, labels, train, rngs, low_res, low_res_noise):
        return variables["params"]["w"] * low_res + 0 * expand(low_res_noise, x)


def test_training_and_its_evaluation_tell_of_the_very_image(config):
    """Flipped ones, of equal pixels in each block: then the prediction is right, and there is no
    loss; with noise, the microbatches do not matter."""
    config.model.parametrization, config.training.likelihood_weighting = "x0", False
    config.training.importance_sampling = False
    config.data.random_flip, config.model.low_res_noise = True, 0.0
    config.training.batch_size = 8
    x = np.asarray(cascade.larger(images(8)[:, :SMALL, :SMALL], SIDE))
    params = {"w": jnp.ones(())}
    optimizer = build.make_optimizer(config)
    state = TrainState(jnp.zeros((), int), params, params, optimizer.init(params))

    def step(n):
        config.training.n_microbatches = n
        run = jax.jit(train.make_train_step(config, Repeats(), LEVELS))  # pyright: ignore
        return run(state, x.reshape(n, 8 // n, SIDE, SIDE, 1))[1]

    assert step(1)["loss"] == pytest.approx(0, abs=1e-4)
    losses = held_out.make_losses(config, Repeats(), data.Dataset(x, x, LEVELS))  # pyright: ignore
    held = losses(params, jax.random.key(0), (x, {}), 0)["loss"]
    np.testing.assert_allclose(held, np.zeros(8), atol=1e-3)
    config.model.low_res_noise = 0.5
    whole, parts = step(1), step(4)
    assert whole["loss"] > 0.1
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(whole[name], parts[name], rtol=1e-5)


def test_test_images_made_larger_keep_their_means(config, monkeypatch):
    x = images(3)
    monkeypatch.setattr(data, "load", lambda _: data.Dataset(x, x, LEVELS))
    config.sampling.batch_size = 200
    drawn, _ = sample.draw(config, Larger(), {}, 400)  # pyright: ignore
    given = means(x / 127.5 - 1)[np.arange(400) % 3]
    np.testing.assert_allclose(means(drawn), given, atol=1e-4)
    within = drawn - np.asarray(cascade.larger(means(drawn), SIDE))
    assert within.var() == pytest.approx(STD**2 * (1 - 1 / PIXELS), rel=0.05)


def test_noise_blurs_the_means_as_much_as_the_model_is_told(config, monkeypatch):
    """By the closed form: of N(y, noise^2) around the given y, the posterior's mean and spread."""
    x = images(1)
    monkeypatch.setattr(data, "load", lambda _: data.Dataset(x, x, LEVELS))
    config.sampling.low_res_noise = noise = 0.2
    drawn, _ = sample.draw(config, Larger(), {}, 1024)  # pyright: ignore
    mean, spread = posterior(means(x / 127.5 - 1), noise)
    variance = spread * STD**2 / PIXELS + (1 - spread) ** 2 * noise**2
    found = means(drawn)
    np.testing.assert_allclose(found.mean(axis=0), mean[0], atol=4 * np.sqrt(variance / 1024))
    assert (found - mean).var() == pytest.approx(variance, rel=0.08)


def test_a_cascade_makes_larger_what_its_base_draws(config, monkeypatch, tmp_path):
    """The same in any batch, and by noise of its own: not that of the base at the same seed."""
    base = base_run(tmp_path)
    config.sampling.low_res = str(tmp_path)
    monkeypatch.setattr(cascade, "load_base", lambda _: (base, Smaller(), {}))
    drawn, _ = sample.draw(config, Larger(), {}, 512)  # pyright: ignore
    low_res, _ = sample.draw(base, Smaller(), {}, 512)  # pyright: ignore
    assert low_res.std() > 0.1
    np.testing.assert_allclose(means(drawn), np.clip(low_res, -1, 1), atol=1e-4)
    within = (drawn - np.asarray(cascade.larger(means(drawn), SIDE))).reshape(512, -1)
    correlation = np.corrcoef(within.T, low_res.reshape(512, -1).T)[: SIDE**2, SIDE**2 :]
    assert np.abs(correlation).max() < 4.5 / np.sqrt(512)
    config.sampling.batch_size = 8
    again, _ = sample.draw(config, Larger(), {}, 20)  # pyright: ignore
    np.testing.assert_allclose(again, drawn[:20], atol=1e-4)


def base_run(folder, **changes):
    """The config of a run of images of half the size, which its folder holds."""
    base = digits.get_config()
    base.data.image_size = SMALL
    base.sampling.update(method="ddim", n_steps=15)
    base.update_from_flattened_dict(changes)
    workdirs.claim(base, folder)
    return base


def test_what_is_drawn_is_said_once_for_both(config, tmp_path):
    classes = {"model.class_conditional": True}
    base_run(tmp_path, **classes, **{"sampling.cfg_weight": 2.0})
    config.update_from_flattened_dict(classes | {"sampling.label": 7, "sampling.cfg_weight": 1.5})
    config.sampling.low_res = str(tmp_path)
    theirs = cascade.base_config(config).sampling
    assert (theirs.label, theirs.cfg_weight, theirs.method) == (7, 2.0, "ddim")


@pytest.mark.parametrize(
    ("changes", "theirs", "message"),
    [
        ({"model.low_res_size": 3}, {}, "low_res_size is 3: it must be a divisor of .* = 4"),
        ({"model.low_res_size": 4}, {}, "low_res_size is 4: .* and smaller"),
        ({"model.low_res_noise": -0.1}, {}, "model.low_res_noise is -0.1: it must be at least 0"),
        ({"sampling.low_res_noise": 0.6}, {}, r"sampling.low_res_noise is 0.6: .* in \[0, 0.5\]"),
        ({"sampling.low_res_noise": -0.1}, {}, r"low_res_noise is -0.1: it must be in \[0, 0.5\]"),
        ({"model.low_res_size": 0}, {}, "model.low_res_noise is 0.5, but the model makes no"),
        ({"sampling.low_res": "", "sampling.label": 1}, {}, "label is 1, but test images are"),
        ({"sampling.low_res": "nowhere"}, {}, "nowhere holds no config.json"),
        ({}, {"data.image_size": 3}, r"shape of images .* is \(3, 3, 1\), .* must be \(2, 2, 1\)"),
        ({}, {"data.num_channels": 3}, "shape of images"),
        ({}, {"data.centered": False}, "range of data"),
        ({}, {"model.name": "wideresnet"}, "'wideresnet', which has no samples"),
        ({"model.class_conditional": True}, {}, "class_conditional .* is False, and here .* True"),
        (
            {"model.class_conditional": True},
            {"model.class_conditional": True, "data.num_classes": 9},
            "number of classes .* is 9, and here must be 10",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_made_larger_is_refused(config, tmp_path, changes, theirs, message):
    base_run(tmp_path, **theirs)
    config.sampling.low_res = str(tmp_path)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        cascade.check(config)


@pytest.mark.slow
def test_a_likelihood_is_conditional_on_the_noisy_means(config):
    """Bits/dim of Gaussian data by the closed form; without the means they are 0.42 more."""
    noise = 0.05
    config.sampling.low_res_noise = noise
    config.eval.rtol = config.eval.atol = 1e-4
    x = STD * jax.random.normal(jax.random.key(3), (500, SIDE, SIDE, 1))
    grey = np.clip(np.floor((np.asarray(x) + 1) / 2 * LEVELS), 0, LEVELS - 1).astype(np.uint8)
    dataset = data.Dataset(grey, grey, LEVELS)
    bits = likelihood.bits_per_dim(config, Larger(), {}, dataset)  # pyright: ignore
    _, spread = posterior(0.0, noise)
    nats = 0.5 * np.log(2 * np.pi * np.e * STD**2) + 0.5 * np.log(spread) / PIXELS
    assert bits.mean == pytest.approx(nats / np.log(2) + np.log2(LEVELS / 2), abs=0.05)
    assert str(bits).endswith(", given 2 x 2 means with noise 0.05)")
