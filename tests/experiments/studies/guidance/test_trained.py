"""Two classes of points, N(-0.5, 0.5^2) and N(0.5, 0.5^2); without a class N(0, 0.5^2)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import pipeline
from scipy.stats import norm

from configs import points
from experiments.data.dataset import Dataset
from experiments.evaluation import reference
from experiments.evaluation.quality import Moments
from experiments.pipeline.guidance import Classifier
from experiments.runs.parts import Parts, always
from experiments.studies.guidance import trained
from experiments.studies.guidance.options import Options
from samplers import Heun
from samplers.guidance_schedules import Schedule
from sde_lib import VP

SDE, MEAN, STD = VP(), 0.5, 0.5
OPTIONS = Options((0.0, 1.0, 3.0), ("constant",), ("heun",), (79,), n_samples=400, n_seeds=2)
SOLVERS = [("heun", Heun(n_steps=40, denoise=True))]
RANDOM = np.random.RandomState(0)
DATA = MEAN * RANDOM.choice([-1, 1], (1000, 1)) + STD * RANDOM.randn(1000, 2)


def scores(x, t, class_labels):
    alpha = SDE.alpha(t)[:, None]
    mean = MEAN * jnp.array([-1.0, 1.0, 0.0])[class_labels][:, None]  # -1 is the last: no class
    return -(x - alpha * mean) / ((alpha * STD) ** 2 + SDE.sigma(t)[:, None] ** 2)


def log_probs(params, x, t):
    """A judge: the sign of the sum of the coordinates."""
    total = jnp.sum(x, axis=1)
    return jnp.stack([-total, total], axis=1)


def model(**fields):
    config = points.get_config("mixture")
    config.data.num_classes, config.model.class_conditional = 2, True
    config.model.label_dropout, config.sampling.batch_size = 0.1, 400
    data = Dataset(DATA.astype(np.float32), DATA[:10].astype(np.float32), None)
    return pipeline(config, scores, data, **fields)


def study(options=OPTIONS, parts=always, judge=None, made=None):
    fn = reference.feature_function((2,))
    truth = reference.Reference(None, Moments.of(DATA), DATA)
    return trained.Study(made or model(), Schedule(), options, fn, truth, judge, parts)


@pytest.fixture(scope="module")
def results():
    made = study(judge=Classifier(log_probs, {}, 2))
    return [result for result, _ in made.measure(made.settings(SOLVERS))]


@pytest.mark.thorough
def test_statistics_are_those_of_the_guided_gaussians(results):
    """Guidance moves the mean of a class to w times its own; all samples have the mean 0.

    Their covariance differs from the data's along the diagonal alone.
    """
    assert [result.weight for result in results] == [0, 1, 3]
    width = np.sqrt(np.trace(np.cov(DATA.T)))
    for result in results:
        assert result.nfe == 79
        assert result.diversity.value == pytest.approx(np.sqrt(2) * STD / width, rel=0.05)
        share = norm.cdf(2 * result.weight * MEAN / (np.sqrt(2) * STD))
        assert result.share.value == pytest.approx(share, abs=0.04)
        stds = [np.sqrt(STD**2 + 2 * mean**2) for mean in (result.weight * MEAN, MEAN)]
        assert result.frechet.value == pytest.approx((stds[0] - stds[1]) ** 2, abs=0.05)
    best, far = results[1:]
    assert best.coverage.value > far.coverage.value + 0.1
    assert best.precision.value > far.precision.value


@pytest.mark.thorough
def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    options = dataclasses.replace(OPTIONS, weights=(1.0,), n_samples=40)
    made = study(options, Parts(tmp_path, "sets", ["same"]))
    (first,) = made.measure(made.settings(SOLVERS))
    monkeypatch.setattr(trained.Study, "compute", None)
    (again,) = made.measure(made.settings(SOLVERS))
    assert again[0] == first[0]


def compared(names, *given, **options):
    made = dataclasses.replace(OPTIONS, schedules=names, **options)
    return made.compared(Schedule("constant", given))


def test_schedules_have_the_options_that_are_their_own():
    """The interval is that of "interval", the power that of "power_cosine"; the rest is all's."""
    given = ("high", 5.0), ("low", 0.2), ("offset", 0.5), ("power", 2.0), ("removed", True)
    names = ("constant", "interval", "power_cosine")
    made = compared(names, *given)
    assert [dict(made[name].options).keys() for name in names] == [
        *({"offset"}, {"low", "high", "offset", "removed"}, {"offset", "power"}),
    ]
    assert compared(("constant",), *given[:3])["constant"].options == given[:3]


def test_every_schedule_guides_in_every_interval_and_outside_of_it():
    intervals = (0.2, 5.0), (0.2, 5.0, True), (0.0, np.inf)
    made = compared(("constant", "linear"), intervals=intervals)
    labels = "in 0.2 to 5", "outside 0.2 to 5", "in 0 to inf"
    assert list(made) == [f"{name} {label}" for name in ("constant", "linear") for label in labels]
    t = SDE.inverse_noise_level(jnp.array([0.1, 1.0, 8.0]))
    weights = [schedule.weight(3.0, SDE)(t) for schedule in made.values()]
    np.testing.assert_allclose(weights[:3], [[1, 3, 1], [3, 1, 3], [3, 3, 3]])
    np.testing.assert_allclose(weights[4], np.where(weights[1] == 1, 1, weights[5]))


def test_an_impossible_interval_is_refused():
    for flat in ((0.2, 5.0), (("a", "b"),), ((0.2, 5.0, "yes"),)):
        with pytest.raises(ValueError, match="give pairs of noise levels"):
            compared(("constant",), intervals=flat)
    with pytest.raises(ValueError, match=r"intervals has \(1.0,\): give pairs of noise levels"):
        compared(("constant",), intervals=((1.0,),))
    made = compared(("constant",), intervals=((2.0, 1.0),))
    with pytest.raises(ValueError, match=r"low is 2\.0 and high 1\.0"):
        trained.check(model(), made.values(), None)


def test_diversity_has_no_bias_for_few_samples_of_a_class():
    random, n = np.random.RandomState(0), 4000
    rows = random.randn(n, 3)
    for size in (2, 10):
        found = trained.within(rows, np.arange(n) // size)
        assert found == pytest.approx(np.sqrt(3), rel=0.03)
    assert trained.within(rows, np.arange(n)) is None


def test_a_classifier_s_weight_is_the_one_that_changes():
    guide = Classifier(log_probs, {}, 2)
    weighted = trained.weighted(model(guides=(guide,)), 3.0, Schedule("linear"))
    assert (weighted.guides[0].weight, weighted.guides[0].schedule.name) == (3.0, "linear")
    assert weighted.classifier_free.weight == 1


def test_a_model_without_conditions_or_unconditional_score_is_refused():
    bare = pipeline(points.get_config("mixture"))
    with pytest.raises(ValueError, match="needs a model with classes"):
        trained.check(bare, [Schedule()], None)
    config = points.get_config("mixture")
    config.data.num_classes, config.model.class_conditional = 2, True
    with pytest.raises(ValueError, match=r"label_dropout=0\.1"):
        trained.check(pipeline(config, scores), [Schedule()], None)
