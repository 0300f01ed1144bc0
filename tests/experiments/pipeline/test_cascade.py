import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saved_runs
from exact_models import grey_images, guided, pipeline

from configs import digits
from experiments.build import pipelines
from experiments.build.components import diffusion, objectives, optimization
from experiments.build.fields import configs
from experiments.data.dataset import Dataset
from experiments.pipeline import cascade
from experiments.pipeline.cascade import SuperResolution
from experiments.pipeline.model import LikelihoodOptions
from experiments.tasks.score_model import ScoreModel
from models import NoiseModel, Preconditioning
from sde_lib.batch import expand

SIDE, SMALL, LEVELS = 4, 2, 256
PIXELS = (SIDE // SMALL) ** 2  # of a block
STD = 0.3
SDE = diffusion.sde(digits.get_config("vp_score_sde"))


def config(**changes):
    result = digits.get_config("vp_score_sde")
    result.data.image_size, result.model.low_res_size = SIDE, SMALL
    result.model.low_res_noise = 0.5
    result.data.uniform_dequantization = False
    result.sampling.update(method="heun", n_steps=40, batch_size=512)
    result.update_from_flattened_dict(changes)
    return result


def posterior(low_res, noise):
    """The mean and, over std^2, the variance of blocks' means given noisy ones."""
    gain = STD**2 / (STD**2 + PIXELS * noise**2)
    return gain * low_res, 1 - gain


def larger_score(x, t, low_res, low_res_noise):
    """The score of independent pixels, N(0, 0.3^2), given their noisy means."""
    alpha, sigma, noise = (expand(a, x) for a in (SDE.alpha(t), SDE.sigma(t), low_res_noise))
    mean, variance = posterior(low_res, noise)
    blocks = cascade.larger(cascade.smaller(x, SMALL), SIDE)
    within = (x - blocks) / ((alpha * STD) ** 2 + sigma**2)
    of_means = (blocks - alpha * mean) / ((alpha * STD) ** 2 * variance + sigma**2)
    return -within - of_means


def smaller_score(x, t):
    """The score of N(0.1, 0.2^2), for a base run."""
    alpha, sigma = (expand(a, x) for a in (SDE.alpha(t), SDE.sigma(t)))
    return -(x - alpha * 0.1) / ((alpha * 0.2) ** 2 + sigma**2)


def model(images=None, **changes):
    """A super-resolution model of images, 256 grey levels."""
    made = pipeline(config(**changes), larger_score)
    scaling = dataclasses.replace(made.scaling, levels=LEVELS)
    if images is None:
        return made.replace(scaling=scaling)
    dataset = Dataset(images, images, LEVELS)
    return made.replace(scaling=scaling, dataset=lambda: dataset)


def base_config(**changes):
    """The config of a model of images of half the size."""
    base = digits.get_config("vp_score_sde")
    base.data.image_size = SMALL
    base.sampling.update(method="ddim", n_steps=15)
    base.update_from_flattened_dict(changes)
    return base


def images(n, seed=0):
    return np.random.RandomState(seed).randint(0, LEVELS, (n, SIDE, SIDE, 1)).astype(np.uint8)


def means(x):
    """Over blocks of 2 x 2, in plain numpy."""
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / PIXELS


@pytest.mark.thorough
def test_the_smaller_image_is_means_and_the_larger_one_repeats_them():
    x = jax.random.normal(jax.random.key(0), (3, SIDE, SIDE, 2))
    found = SuperResolution(SMALL, SIDE, 0.5).conditions(jax.random.key(1), x, 0)
    np.testing.assert_allclose(found["low_res"][:, ::2, ::2], means(x), rtol=1e-5, atol=1e-6)
    repeated = found["low_res"][:, 1::2, 1::2]
    np.testing.assert_array_equal(repeated, found["low_res"][:, ::2, ::2])
    np.testing.assert_array_equal(found["low_res_noise"], np.zeros(3))
    plain = config(**{"model.low_res_size": 0, "model.low_res_noise": 0.0})
    assert pipelines.super_resolution(plain) is None


@pytest.mark.thorough
def test_the_noise_has_the_level_of_the_condition_whatever_the_batch():
    key, x = jax.random.key(1), jnp.zeros((4000, SIDE, SIDE, 1))
    low_res = SuperResolution(SMALL, SIDE, 0.5)
    found = low_res.training_conditions(key, x, 0)
    level = found["low_res_noise"]
    assert level.min() >= 0
    assert level.max() <= 0.5
    assert level.std() == pytest.approx(0.5 / np.sqrt(12), rel=0.03)
    z = found["low_res"][:, ::2, ::2] / level[:, None, None, None]
    assert (z.mean(), z.std()) == pytest.approx((0, 1), abs=0.03)
    assert abs(np.corrcoef(np.abs(z[:, 0, 0, 0]), level)[0, 1]) < 0.06
    later = low_res.training_conditions(key, x[:10], 3990)
    for name, value in later.items():
        np.testing.assert_allclose(value, found[name][3990:], rtol=1e-6)


class Repeats:
    """A network that predicts the low-resolution image, times a parameter."""

    def apply(self, variables, x, labels, train, rngs, low_res, low_res_noise):
        return variables["params"]["w"] * low_res + 0 * expand(low_res_noise, x)


@pytest.mark.thorough
def test_training_and_its_evaluation_condition_on_the_very_image():
    """With equal pixels in each block the prediction is right, and there is no loss; with noise,
    microbatches draw what the whole batch draws."""
    weighting = {"training.likelihood_weighting": False, "training.importance_sampling": False}
    x = np.asarray(cascade.larger(images(8)[:, :SMALL, :SMALL], SIDE)) / 127.5 - 1
    params, key = {"w": jnp.ones(())}, jax.random.key(0)
    network = NoiseModel(Repeats(), Preconditioning(SDE, "x0"))  # pyright: ignore

    def task(noise):
        ours = config(**weighting, **{"model.low_res_noise": noise})
        made, sde = model(**weighting, **{"model.low_res_noise": noise}), diffusion.sde(ours)
        return ScoreModel(
            made.replace(model=network),
            objectives.loss_of(ours, sde),
            objectives.held_out_loss(ours, sde),
            optimization.adam(ours),
        )

    def loss(task, x, first=0):
        keys = dict.fromkeys(("labels", "augment", "loss", "dropout"), key)
        return jax.jit(task.loss)(params, keys, None, first, x, {})[0]

    assert loss(task(0.0), x) == pytest.approx(0, abs=1e-4)
    grey = np.round((x + 1) * 127.5).astype(np.uint8)
    held = jax.jit(task(0.0).metrics)(params, key, (grey, {}), 0)["loss"]
    np.testing.assert_allclose(held, np.zeros(8), atol=1e-3)
    noisy = task(0.5)
    whole, halves = loss(noisy, x), [loss(noisy, x[k : k + 4], k) for k in (0, 4)]
    assert whole > 0.1
    np.testing.assert_allclose(whole, np.mean(halves), rtol=1e-5)


@pytest.mark.thorough
def test_test_images_made_larger_keep_their_means():
    x = images(3)
    drawn = model(x).replace(batch_size=200).sample(400)
    given = means(x / 127.5 - 1)[np.arange(400) % 3]
    np.testing.assert_allclose(means(drawn), given, atol=1e-4)
    within = drawn - np.asarray(cascade.larger(means(drawn), SIDE))
    assert within.var() == pytest.approx(STD**2 * (1 - 1 / PIXELS), rel=0.05)
    with pytest.raises(ValueError, match="test images are made larger, which have classes"):
        model(x).sample(1, label=3)


@pytest.mark.thorough
def test_noise_blurs_the_means_as_much_as_the_condition_says():
    """By the closed form: of N(y, noise^2) around the given y, the posterior's mean and spread."""
    x, noise = images(1), 0.2
    drawn = model(x, **{"sampling.low_res_noise": noise}).sample(1024)
    mean, spread = posterior(means(x / 127.5 - 1), noise)
    variance = spread * STD**2 / PIXELS + (1 - spread) ** 2 * noise**2
    found = means(drawn)
    np.testing.assert_allclose(found.mean(axis=0), mean[0], atol=4 * np.sqrt(variance / 1024))
    assert (found - mean).var() == pytest.approx(variance, rel=0.08)


@pytest.mark.thorough
def test_a_cascade_makes_larger_what_its_base_draws():
    """The same in any batch, and by noise of its own: not that of the base at the same seed."""
    base = pipeline(base_config(), smaller_score, batch_size=512)
    whole = model().replace(base=base)
    drawn, low_res = whole.sample(512), base.sample(512)
    assert low_res.std() > 0.1
    np.testing.assert_allclose(means(drawn), np.clip(low_res, -1, 1), atol=1e-4)
    within = (drawn - np.asarray(cascade.larger(means(drawn), SIDE))).reshape(512, -1)
    correlation = np.corrcoef(within.T, low_res.reshape(512, -1).T)[: SIDE**2, SIDE**2 :]
    assert np.abs(correlation).max() < 4.5 / np.sqrt(512)
    again = whole.replace(batch_size=8).sample(20)
    np.testing.assert_allclose(again, drawn[:20], atol=1e-4)
    other = np.clip(base.sample(8, seed=1), -1, 1)  # another seed is another image from the start
    np.testing.assert_allclose(means(whole.sample(8, seed=1)), other, atol=1e-4)
    assert np.abs(other - low_res[:8]).max() > 0.1


@pytest.mark.thorough
def test_a_class_is_given_once_for_both(tmp_path):
    classes = {"model.class_conditional": True, "model.label_dropout": 0.1}
    weight = "guidance.classifier_free.weight"
    saved_runs.save(tiny(base_config(**classes, **{weight: 2.0})), tmp_path)
    changes = classes | {"sampling.label": 7, weight: 1.5, "sampling.low_res": str(tmp_path)}
    whole = guided(config(**changes))
    theirs, asked = whole.base, whole.asked(None, 3, None).base
    assert theirs.conditions.members[0].labels == (7,)
    assert theirs.classifier_free.weight == 2.0
    assert type(theirs.sampler).__name__ == "DDIM"
    assert asked.conditions.members[0].labels == (3,)


def tiny(config):
    config.model.update(nf=4, ch_mult=(1,), num_res_blocks=1, attn_resolutions=())
    return config


@pytest.mark.parametrize(
    ("changes", "theirs", "message"),
    [
        ({"model.low_res_size": 3}, {}, "low_res_size is 3: it must be a divisor of .* = 4"),
        ({"model.low_res_size": 4}, {}, "low_res_size is 4: .* and smaller"),
        ({"model.low_res_noise": -0.1}, {}, "model.low_res_noise is -0.1: it must be at least 0"),
        ({"sampling.low_res_noise": 0.6}, {}, r"sampling.low_res_noise is 0.6: .* in \[0, 0.5\]"),
        ({"sampling.low_res_noise": -0.1}, {}, r"low_res_noise is -0.1: it must be in \[0, 0.5\]"),
        ({"model.low_res_size": 0}, {}, "model.low_res_noise is 0.5, but the model makes no"),
        (
            {"sampling.low_res": "", "sampling.label": 1, "model.class_conditional": True},
            {},
            "label is 1, but test images are",
        ),
        ({"sampling.low_res": "nowhere"}, {}, "there is no folder nowhere"),
        ({}, {"data.image_size": 3}, r"shape of images .* is \(3, 3, 1\), .* must be \(2, 2, 1\)"),
        ({}, {"data.num_channels": 3}, "shape of images"),
        ({}, {"data.centered": False}, "range of data"),
        ({}, {"model.name": "wideresnet"}, "'wideresnet': that is no score model"),
        ({"model.class_conditional": True}, {}, "class_conditional .* is False, and here .* True"),
        (
            {"model.class_conditional": True},
            {"model.class_conditional": True, "data.num_classes": 9},
            "number of classes .* is 9, and here must be 10",
        ),
    ],
    ids=str,
)
def test_impossible_cascades_are_refused(tmp_path, changes, theirs, message):
    configs.save(base_config(**theirs), tmp_path)
    with pytest.raises(ValueError, match=message):
        guided(config(**{"sampling.low_res": str(tmp_path)} | changes))


@pytest.mark.slow
def test_a_likelihood_is_conditional_on_the_noisy_means():
    """Bits/dim of Gaussian data by the closed form; without the means they are 0.42 more."""
    noise = 0.05
    x = STD * jax.random.normal(jax.random.key(3), (500, SIDE, SIDE, 1))
    made = model(**{"sampling.low_res_noise": noise})
    bits = made.replace(likelihood=LikelihoodOptions(1e-4, 1e-4)).bits_per_dim(grey_images(x))
    _, spread = posterior(0.0, noise)
    nats = 0.5 * np.log(2 * np.pi * np.e * STD**2) + 0.5 * np.log(spread) / PIXELS
    assert bits.mean == pytest.approx(nats / np.log(2) + np.log2(LEVELS / 2), abs=0.05)
    assert str(bits).endswith(", given 2 x 2 means with noise 0.05)")
