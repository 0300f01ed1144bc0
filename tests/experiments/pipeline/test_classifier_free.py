import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import pipeline

import samplers
from configs import digits
from experiments.build import pipelines
from experiments.build.components import diffusion
from experiments.pipeline.classifier_free import ClassifierFree
from samplers.guidance_schedules import Schedule
from sde_lib import ScoreAndVariance

STD = 0.3
NO_CLASS, MEANS = 0.1, jnp.array([-0.3, 0.2, 0.4])
CLASSES = jnp.arange(3)
FREE = "guidance.classifier_free."


class Gaussians:
    """The score of N(mean, 0.3^2), the mean that of the class. `sizes` are those of its batches.

    Confidence in the class weighs its mean against that without a class.
    """

    def __init__(self):
        self.sizes = []

    def __call__(self, x, t, class_labels, confidences=None):
        self.sizes.append(len(x))
        confidence = jnp.where(class_labels < 0, 0.0, 1.0 if confidences is None else confidences)
        mean = (NO_CLASS + confidence * (MEANS[class_labels] - NO_CLASS))[:, None, None, None]
        t = t[:, None, None, None]
        return -(x - SDE.alpha(t) * mean) / ((SDE.alpha(t) * STD) ** 2 + SDE.sigma(t) ** 2)


def config(changes):
    result = digits.get_config("vp_score_sde")
    result.data.num_classes, result.data.image_size = 3, 4
    result.model.class_conditional, result.model.label_dropout = True, 0.1
    result.update_from_flattened_dict(changes)
    return result


SDE = diffusion.sde(digits.get_config("vp_score_sde"))


def drawn_to(changes, t=0.3, score=None):
    """The means that samples of the three classes are drawn to: the score at 0, rescaled."""
    model = pipeline(config(changes), score or Gaussians())
    labels = model.sample_conditions(np.arange(3)) | {"class_labels": CLASSES}
    if changes.get("sampling.label", -1) != -1:
        labels = model.sample_conditions(np.arange(3))
    t = jnp.full(3, t)
    score = model.conditional_score({}, labels)(jnp.zeros((3, 4, 4, 1)), t)[:, 0, 0, 0]
    alpha, sigma = SDE.alpha(t), SDE.sigma(t)
    return score * ((alpha * STD) ** 2 + sigma**2) / alpha


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("changes", "expected", "times"),
    [
        ({}, MEANS, 1),
        ({FREE + "weight": 0.0}, NO_CLASS, 1),
        ({FREE + "weight": 2.5}, NO_CLASS + 2.5 * (MEANS - NO_CLASS), 2),
        (
            {FREE + "weight": 2.5, "sampling.label": 1},
            NO_CLASS + 2.5 * (MEANS[1] - NO_CLASS),
            2,
        ),
        ({FREE + "negative_label": 2}, NO_CLASS + MEANS - MEANS[2], 3),
        (
            {FREE + "weight": 2.0, FREE + "negative_label": 2},
            NO_CLASS + 2 * (MEANS - MEANS[2]),
            3,
        ),
        (
            {FREE + "weight": 2.0, FREE + "negative_label": 2, FREE + "negative_terms": 2},
            MEANS[2] + 2 * (MEANS - MEANS[2]),
            2,
        ),
    ],
    ids=str,
)
def test_guidance_extrapolates_the_means_of_gaussians(changes, expected, times):
    """In one call of the network, on a batch of so many times the size."""
    score = Gaussians()
    mean = drawn_to(changes, score=score)
    np.testing.assert_allclose(mean, jnp.broadcast_to(expected, 3), rtol=1e-4)
    assert score.sizes == [3 * times]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_guidance_by_confidence_starts_from_confidence_0(dropout):
    """Without label_dropout too, where the class stays."""
    changes = {FREE + "weight": 2.0, "sampling.confidence": 0.7, "model.label_confidence": True}
    mean = drawn_to(changes | {"model.label_dropout": dropout})
    np.testing.assert_allclose(mean, NO_CLASS + 2 * 0.7 * (MEANS - NO_CLASS), rtol=1e-4)


def test_a_weight_of_1_is_the_score_of_the_class_bit_for_bit():
    model, values = pipeline(config({}), Gaussians()), {"class_labels": CLASSES}
    given = jax.random.normal(jax.random.key(0), (3, 4, 4, 1)), jnp.array([0.1, 0.5, 0.9])
    guided, plain = (score({}, values) for score in (model.conditional_score, model.score_of))
    np.testing.assert_array_equal(guided(*given), plain(*given))


def test_channels_need_guidance_and_are_some_at_least():
    with pytest.raises(ValueError, match=r"channels is 1, which does nothing without guidance"):
        pipelines.untrained(config({FREE + "channels": 1}))
    with pytest.raises(ValueError, match=r"config\.guidance\.classifier_free\.channels"):
        ClassifierFree(2.0, channels=0)
    made = pipelines.untrained(config({FREE + "channels": 1, FREE + "weight": 2.0}))
    assert made.classifier_free == ClassifierFree(2.0, channels=1)


@pytest.mark.thorough
def test_a_learned_variance_stays_with_guidance():
    """The chain's variance is the conditional model's, its mean the guided one."""
    plain = Gaussians()

    def score(x, t, **conditions):
        return plain(x, t, **conditions)

    model, values = pipeline(config({FREE + "weight": 2.0}), score), {"class_labels": CLASSES}
    object.__setattr__(
        model,
        "score_of",
        lambda params, conditions: ScoreAndVariance(
            lambda x, t: (score(x, t, **conditions), 0 * x + conditions["class_labels"][0])
        ),
    )
    x, t = jax.random.normal(jax.random.key(0), (3, 4, 4, 1)), jnp.array([0.1, 0.5, 0.9])
    guided = model.conditional_score({}, values)
    assert isinstance(guided, ScoreAndVariance)
    got, variance = guided.both(x, t)
    null = score(x, t, class_labels=-jnp.ones(3, int))
    np.testing.assert_allclose(got, 2 * score(x, t, class_labels=CLASSES) - null, rtol=1e-4)
    np.testing.assert_array_equal(variance, 0 * x)
    samplers.create("ddpm", n_steps=2, variance="learned")(
        jax.random.key(0), model.sde, guided, x.shape
    )


def test_a_schedule_of_weight_1_guides_too():
    conditions = pipelines.untrained(config({})).conditions
    assert ClassifierFree(schedule=Schedule("cosine")).changes(conditions)
    assert not ClassifierFree(schedule=Schedule("constant", (("low", 0.1),))).changes(conditions)
    assert ClassifierFree(schedule=Schedule("constant", (("offset", 1.0),))).changes(conditions)
    assert not ClassifierFree().changes(conditions)


@pytest.mark.thorough
def test_a_schedule_weighs_by_time():
    """The score of the class outside of the interval; of a gradient, nothing."""
    interval = {"name": "interval", "low": 0.1, "high": 1.0}
    changes = {f"guidance.schedule.{name}": value for name, value in interval.items()}
    changes |= {FREE + "weight": 3.0}
    schedule, t = pipelines.untrained(config(changes)).classifier_free.schedule, [0.01, 0.2, 0.9]
    levels = SDE.noise_level(jnp.array(t))
    assert levels[0] < 0.1 < levels[1] < 1 < levels[2]
    for outside in (0.0, 1.0):
        weights = schedule.weight(3.0, SDE, outside)(jnp.array(t))
        np.testing.assert_array_equal(weights, [outside, 3, outside])
    for time, weight in zip(t, (1, 3, 1), strict=True):
        mean = drawn_to(changes, time)
        np.testing.assert_allclose(mean, NO_CLASS + weight * (MEANS - NO_CLASS), rtol=1e-3)
    assert Schedule().weight(2.0, SDE) == 2.0


@pytest.mark.thorough
def test_guided_samples_have_the_moments_and_do_not_depend_on_batches():
    changes = {FREE + "weight": 2.0, "sampling.batch_size": 300}
    model = pipeline(config(changes), Gaussians(), sampler=samplers.create("heun", n_steps=30))
    whole, parts = model.sample(300), model.replace(batch_size=160).sample(300)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    for label in range(3):
        x = whole[label::3]
        expected = float(NO_CLASS + 2 * (MEANS[label] - NO_CLASS))
        assert x.mean() == pytest.approx(expected, abs=0.03)
        assert x.std() == pytest.approx(STD, rel=0.06)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({FREE + "weight": -1.0}, "classifier_free.weight is -1.0: it must be at least 0"),
        ({FREE + "weight": float("nan")}, "weight is nan"),
        ({FREE + "weight": float("inf")}, "weight is inf"),
        ({"sampling.confidence": 0.5}, "confidence needs a model with label_confidence"),
        (
            {"sampling.confidence": 1.5, "model.label_confidence": True},
            r"confidence is 1.5: it must be in \[0, 1\]",
        ),
        ({FREE + "negative_terms": 1}, "negative_terms is 1: it must be 3, or 2"),
        ({FREE + "negative_label": 3}, "negative_label is 3: it must be a class, 0 to 2"),
        ({FREE + "negative_label": -2}, "negative_label is -2"),
        (
            {FREE + "negative_label": 1, "sampling.label": 1},
            r"not among the classes to draw, \(1,\)",
        ),
        ({"sampling.label": 3}, "config.sampling.label is 3"),
        ({"guidance.schedule.name": "cosin"}, "did you mean 'cosine'"),
        ({"guidance.schedule.name": "power_cosine"}, "'power_cosine' needs the option 'power'"),
        ({"guidance.schedule.power": 2.0}, "power is 2.0, .* 'constant' has no such option"),
        ({"guidance.schedule.removed": True}, "removed is True, but there is no interval"),
    ],
    ids=str,
)
def test_impossible_guidance_of_a_model_with_classes_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        pipelines.untrained(config(changes))


@pytest.mark.parametrize(
    "changes", [{FREE + "weight": 0.0}, {FREE + "weight": 2.0}, {FREE + "negative_label": 1}]
)
def test_guidance_without_an_unconditional_score_is_refused(changes):
    changes = changes | {"model.label_dropout": 0.0}
    with pytest.raises(ValueError, match="the unconditional score, which this model has not lear"):
        pipelines.untrained(config(changes))
    pipelines.untrained(config(changes | {"model.label_confidence": True}))
    with pytest.raises(ValueError, match="needs a model with classes"):
        pipelines.untrained(config(changes | {"model.class_conditional": False}))


@pytest.mark.thorough
def test_two_terms_need_no_unconditional_score():
    changes = {FREE + "negative_label": 1, FREE + "negative_terms": 2, FREE + "weight": 2.0}
    pipelines.untrained(config(changes | {"model.label_dropout": 0.0}))


@pytest.mark.thorough
def test_another_class_is_drawn_and_edited_by_the_same_program():
    score = Gaussians()
    model = pipeline(config({}), score, sampler=samplers.create("ddim", n_steps=4))
    x = np.zeros((1, 4, 4, 1), np.float32)
    model.sample(1, label=0), model.edit(x, "variations", n_results=1, strength=1.0)
    traced = len(score.sizes)
    for label in (1, 2):
        drawn = model.sample(1, label=label)
        edited = model.edit(x, "variations", n_results=1, strength=1.0, label=label)
        np.testing.assert_array_equal(drawn, edited["result 1"])
    assert len(score.sizes) == traced
    assert drawn.mean() > 0.2  # of the last class, 0.4
