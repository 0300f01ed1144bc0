import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from experiments import build
from experiments.pipeline import sample, scores
from experiments.runs import sharding

STD = 0.3
NO_CLASS, MEANS = 0.1, jnp.array([-0.3, 0.2, 0.4])


class Gaussians:
    """A network whose score is that of N(mean, 0.3^2), the mean that of the class.

    Trust in the class weighs its mean against that of no class.
    """

    def __init__(self):
        self.sizes = []

    def apply(self, variables, x, labels, train, rngs, class_labels, confidences=None):
        self.sizes.append(len(x))
        trust = jnp.where(class_labels < 0, 0.0, 1.0 if confidences is None else confidences)
        mean = (NO_CLASS + trust * (MEANS[class_labels] - NO_CLASS))[:, None, None, None]
        sde, t = build.make_sde(digits.get_config()), labels[:, None, None, None] / 999
        variance = (sde.alpha(t) * STD) ** 2 + sde.sigma(t) ** 2
        return -(x - sde.alpha(t) * mean) / variance


def config(**sampling):
    result = digits.get_config()
    result.data.num_classes, result.data.image_size = 3, 4
    result.model.class_conditional, result.model.label_dropout = True, 0.1
    result.model.parametrization = "score"
    result.sampling.update(sampling)
    return result


def score_of(config, classes, t):
    """The score at 0 times the variance over alpha: the mean that it is drawn to; and the calls."""
    network, sde, mesh = Gaussians(), build.make_sde(config), sharding.make_mesh(config)
    score_fn = scores.sampling_score_fn(config, sde, network, mesh, {}, classes)  # pyright: ignore
    t = jnp.full(len(classes), t)
    score = score_fn(jnp.zeros((len(classes), 4, 4, 1)), t)[:, 0, 0, 0]
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return score * ((alpha * STD) ** 2 + sigma**2) / alpha, network.sizes


CLASSES = jnp.arange(3)


@pytest.mark.parametrize(
    ("sampling", "expected", "times"),
    [
        ({}, MEANS, 1),
        ({"cfg_weight": 0.0}, NO_CLASS, 1),
        ({"cfg_weight": 2.5}, NO_CLASS + 2.5 * (MEANS - NO_CLASS), 2),
        ({"cfg_weight": 2.5, "label": 1}, NO_CLASS + 2.5 * (MEANS[1] - NO_CLASS), 2),
        ({"negative_label": 2}, NO_CLASS + MEANS - MEANS[2], 3),
        ({"cfg_weight": 2.0, "negative_label": 2}, NO_CLASS + 2 * (MEANS - MEANS[2]), 3),
        (
            {"cfg_weight": 2.0, "negative_label": 2, "negative_terms": 2},
            MEANS[2] + 2 * (MEANS - MEANS[2]),
            2,
        ),
    ],
    ids=str,
)
def test_guidance_extrapolates_the_means_of_gaussians(sampling, expected, times):
    """In one call of the network, on a batch of so many times the size."""
    mean, sizes = score_of(config(**sampling), CLASSES, 0.3)
    np.testing.assert_allclose(mean, jnp.broadcast_to(expected, 3), rtol=1e-4)
    assert sizes == [3 * times]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_guidance_by_confidence_starts_from_none(dropout):
    """And so it does without label_dropout, where the class stays."""
    ours = config(cfg_weight=2.0, confidence=0.7)
    ours.model.label_confidence, ours.model.label_dropout = True, dropout
    mean, _ = score_of(ours, CLASSES, 0.3)
    np.testing.assert_allclose(mean, NO_CLASS + 2 * 0.7 * (MEANS - NO_CLASS), rtol=1e-4)


def test_a_weight_of_1_is_the_score_of_the_class_bit_for_bit():
    ours, network = config(), Gaussians()
    sde, mesh = build.make_sde(ours), sharding.make_mesh(ours)
    told = {"class_labels": CLASSES}
    plain = scores.score_fn(ours, sde, network, mesh, {}, told)  # pyright: ignore
    guided = scores.sampling_score_fn(ours, sde, network, mesh, {}, CLASSES)  # pyright: ignore
    given = jax.random.normal(jax.random.key(0), (3, 4, 4, 1)), jnp.array([0.1, 0.5, 0.9])
    np.testing.assert_array_equal(guided(*given), plain(*given))


def test_a_schedule_of_weight_1_guides_too():
    assert scores.is_guided(config(guidance_schedule="cosine"))
    assert not scores.is_guided(config(guidance_schedule="interval"))
    assert not scores.is_guided(config(guidance_schedule="cosine", classifier="anywhere"))


def test_a_schedule_weighs_by_time():
    """The score of the class outside of the interval; of a gradient, nothing."""
    ours = config(cfg_weight=3.0, guidance_schedule="interval")
    ours.sampling.schedule_low, ours.sampling.schedule_high = 0.1, 1.0
    sde, t = build.make_sde(ours), jnp.array([0.01, 0.2, 0.9])
    levels = sde.noise_level(t)
    assert levels[0] < 0.1 < levels[1] < 1 < levels[2]
    for outside in (0.0, 1.0):
        weights = scores.schedule(ours, sde, 3.0, outside)(t)
        np.testing.assert_array_equal(weights, [outside, 3, outside])
    for time, weight in zip(t, (1, 3, 1), strict=True):
        mean, _ = score_of(ours, CLASSES, time)
        np.testing.assert_allclose(mean, NO_CLASS + weight * (MEANS - NO_CLASS), rtol=1e-3)
    assert scores.schedule(config(), sde, 2.0) == 2.0


def test_guided_samples_have_the_moments_and_do_not_depend_on_batches():
    ours = config(cfg_weight=2.0, n_steps=200)
    ours.sampling.batch_size = 300
    whole, _ = sample.draw(ours, Gaussians(), {}, 300)  # pyright: ignore
    ours.sampling.batch_size = 160
    parts, _ = sample.draw(ours, Gaussians(), {}, 300)  # pyright: ignore
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    for label in range(3):
        x = whole[label::3]
        expected = float(NO_CLASS + 2 * (MEANS[label] - NO_CLASS))
        assert x.mean() == pytest.approx(expected, abs=0.03)
        assert x.std() == pytest.approx(STD, rel=0.06)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cfg_weight": -1.0}, "config.sampling.cfg_weight is -1.0: it must be at least 0"),
        ({"cfg_weight": float("nan")}, "cfg_weight is nan"),
        ({"cfg_weight": float("inf")}, "cfg_weight is inf"),
        ({"confidence": 1.5}, r"confidence is 1.5: it must be in \[0, 1\]"),
        ({"confidence": 0.5}, "confidence needs a model with label_confidence"),
        ({"negative_terms": 1}, "negative_terms is 1: it must be 3, or 2"),
        ({"negative_label": 3}, "negative_label is 3: it must be a class, 0 to 2"),
        ({"negative_label": -2}, "negative_label is -2"),
        ({"negative_label": 1, "label": 1}, "other than config.sampling.label = 1"),
        ({"label": 3}, "config.sampling.label is 3"),
        ({"guidance_schedule": "cosin"}, "did you mean 'cosine'"),
        ({"guidance_schedule": "power_cosine"}, "missing a required argument: 'power'"),
        ({"schedule_low": 0.1}, "unexpected keyword argument 'low'"),
    ],
    ids=str,
)
def test_what_a_model_with_classes_cannot_be_asked_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build.check(config(**changes))


@pytest.mark.parametrize(
    "changes", [{"cfg_weight": 0.0}, {"cfg_weight": 2.0}, {"negative_label": 1}]
)
def test_guidance_without_what_it_starts_from_is_refused(changes):
    ours = config(**changes)
    ours.model.label_dropout = 0.0
    with pytest.raises(ValueError, match="score without a class or text, which this model has not"):
        build.check(ours)
    ours.model.label_confidence = True
    build.check(ours)
    ours.model.class_conditional = ours.model.label_confidence = False
    with pytest.raises(ValueError, match="needs a model with classes"):
        build.check(ours)


def test_two_terms_need_no_score_without_a_class():
    ours = config(negative_label=1, negative_terms=2, cfg_weight=2.0)
    ours.model.label_dropout = 0.0
    build.check(ours)
