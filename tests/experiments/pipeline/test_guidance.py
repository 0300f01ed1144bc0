import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import guided, pipeline

import samplers
import sde_lib
from configs import digits, points
from experiments.build import guidance as build_guidance
from experiments.build.fields import sections
from experiments.pipeline import guidance
from experiments.pipeline.guidance import (
    Classifier,
    Clip,
    Discriminator,
    EpsilonScaling,
    TimeShift,
)
from models import NoiseModel

HEUN = samplers.create("heun", n_steps=4)


def half_the_square(params, x, t):
    return 0.5 * jnp.sum(x**2, axis=1)


def config(**guidance):
    """A model of points, guided by a discriminator in any folder."""
    result = points.get_config("moons")
    result.sampling.method, result.sampling.n_steps = "euler", 4
    for field, value in ({"discriminator.run": "anywhere"} | guidance).items():
        sections.put(result, f"guidance.{field}", value)
    return result


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """A discriminator whose gradient is x, of any folder."""
    monkeypatch.setattr(
        build_guidance, "load_discriminator", lambda *_: (half_the_square, {"w": jnp.ones(3)})
    )


@pytest.mark.thorough
@pytest.mark.parametrize(("last", "first"), [(False, 6 / 2 + 0.7), (True, (6 + 0.7) / 2)])
def test_the_noise_is_scaled_before_or_after_guidance(last, first):
    """A score of 6 x over b = 2, and a gradient of x, of weight 0.7 in the first evaluation."""
    options = {"epsilon_scaling.scale": 2.0, "epsilon_scaling.guided": last}
    model = guided(config(**options, **{"discriminator.weight": 0.7}))
    x, t = jnp.ones((3, 2)), jnp.array([0.2, 0.5, 0.9])
    params = [guide.params for guide in model.guides]
    scores = model.guided(lambda x, t: 6 * x, params, jnp.arange(3))
    for score_fn, expected in zip(scores, (first, 6 / 2), strict=True):
        np.testing.assert_allclose(score_fn(x, t), expected * x, rtol=1e-6)


def test_the_weights_of_a_guide_are_arguments_of_the_program():
    model = guided(config())
    assert [guide.params["w"].shape for guide in model.guides] == [(3,)]


@pytest.mark.thorough
def test_the_predicted_noise_is_scaled_by_the_step():
    """b = 1.1 + 0.05 i of Euler's steps: those of a score that is divided by hand."""
    ours = config(**{"discriminator.run": "", "epsilon_scaling.scale": 1.1})
    ours.guidance.epsilon_scaling.step_slope = 0.05
    model = guided(ours)
    sde, solver = model.sde, samplers.Euler(n_steps=4)
    model = model.replace(sampler=solver)
    levels = solver.own_levels(sde)[:4]

    def score_fn(x, t):
        return -x

    def by_hand(x, t):
        i = jnp.argmin(jnp.abs(jnp.log(sde.noise_level(t)[0]) - jnp.log(jnp.asarray(levels))))
        return -x / (1.1 + 0.05 * i)

    scores = model.guided(score_fn, [guide.params for guide in model.guides], jnp.arange(3))
    found, expected = (
        solver(jax.random.key(0), sde, scores_, (3, 2)).x for scores_ in (scores, by_hand)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="ProbabilityFlow has no fixed steps: set it to 0, or"):
        model.replace(sampler=samplers.ProbabilityFlow())


def test_no_guidance_changes_nothing():
    model = guided(config(**{"discriminator.run": ""}))
    assert model.guides == ()

    def score_fn(x, t):
        return x

    applied = guidance.apply((), score_fn, (), model.sde, jnp.arange(3))
    assert applied is score_fn


@pytest.mark.thorough
def test_a_classifier_guides_to_the_classes_in_turn():
    """log p(class c | x) = c sum(x): a gradient of c in every dimension."""

    def log_probs(params, x, t):
        return params * jnp.arange(4.0) * x.sum(axis=1, keepdims=True)

    x, t, sde = jnp.ones((4, 2)), jnp.full(4, 0.5), sde_lib.VP()
    for labels, expected in (((), [2, 3, 0, 1]), ((3, 1), [3, 1, 3, 1])):
        guide = Classifier(log_probs, jnp.ones(()), 4, labels, weight=2.0)
        classified = guide.apply(lambda x, t: 0 * x, guide.params, sde, jnp.arange(2, 6))
        np.testing.assert_allclose(classified(x, t)[:, 0], 2.0 * np.array(expected))


def test_a_label_asked_for_is_the_classifier_s():
    """The model has no classes of its own."""
    guide = Classifier(half_the_square, (), 4, (1,))
    model = pipeline(digits.get_config("vp_score_sde")).replace(guides=(guide, EpsilonScaling(1.1)))
    for label, labels in ((3, (3,)), (1, (1,)), ((2, 0), (2, 0)), (-1, ()), (None, (1,))):
        classifier, other = model.asked(None, label, None).guides
        assert (classifier.labels, other) == (labels, EpsilonScaling(1.1))
    with pytest.raises(ValueError, match="0 to 3"):
        model.asked(None, 4, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilon_scaling.scale": 0.0}, "epsilon_scaling.scale is 0.0: it must be positive"),
        ({"epsilon_scaling.slope": -2.0}, r"epsilon_scaling: scale \+ 1 slope is -1.0"),
        ({"epsilon_scaling.step_slope": -0.5}, r"scaling: scale \+ 4 step_slope is -1.0"),
        ({"epsilon_scaling.step_slope": float("nan")}, "epsilon_scaling.step_slope is nan"),
        ({"discriminator.weight": -1.0}, "discriminator.weight is -1.0: it must be at least 0"),
        ({"discriminator.weight_2nd_order": float("inf")}, "weight_2nd_order is inf: it must be"),
        ({"time_shift.window": -0.1}, "time_shift.window is -0.1"),
        ({"discriminator.sigma_min": 200.0}, "sigma_min is 200: it must be below sigma_max"),
        (
            {"discriminator.run": "", "discriminator.boost": True},
            "boost is True, which does nothing without",
        ),
        (
            {"discriminator.run": "", "discriminator.weight": 2.0},
            "discriminator.weight is 2.0, which does nothing",
        ),
        ({"time_shift.cutoff": 0.5}, "cutoff is 0.5, which does nothing without .*window"),
        ({"epsilon_scaling.guided": True}, "guided is True, which does nothing without .*scale"),
        ({"classifier.weight": 2.0}, "classifier.weight is 2.0, which does nothing without .*run"),
    ],
    ids=str,
)
def test_impossible_guidance_is_refused(values, message):
    guided(config())
    with pytest.raises(ValueError, match=message):
        guided(config(**values))


def test_a_classifier_s_weight_is_a_number():
    with pytest.raises(ValueError, match=r"config.guidance.classifier.weight is nan: it must be"):
        Classifier(half_the_square, (), 3, weight=float("nan"))


def test_there_is_no_time_shift_without_a_noise_level():
    config = digits.get_config("vp_score_sde")
    config.training.sde, config.guidance.time_shift.window = "cld", 0.1
    config.sampling.update(method="symmetric_splitting")
    config.training.likelihood_weighting = config.training.importance_sampling = False
    with pytest.raises(ValueError, match=r"noise level, which .* does not have"):
        guided(config)


def test_a_discriminator_guides_no_model_with_conditions():
    classes = digits.get_config("vp_score_sde")
    classes.sampling.update(method="heun", n_steps=30)
    classes.model.class_conditional, classes.guidance.discriminator.run = True, "anywhere"
    with pytest.raises(ValueError, match="knows data alone, but this model has conditions"):
        guided(classes)


@pytest.mark.parametrize("method", ["predictor_corrector", "dpm_fast"])
def test_other_samplers_take_one_weight(method):
    ours = config()
    ours.sampling.update(method=method, n_steps=50)
    with pytest.raises(ValueError, match="does not tell the first evaluation of a step"):
        guided(ours)
    ours.guidance.discriminator.weight_2nd_order = 1.0
    guided(ours)


@pytest.mark.thorough
def test_guides_are_applied_to_samples():
    """One step of Euler's method is linear in the score, and a noise over b = 1.5 in 1 / b."""
    model = pipeline(config(**{"discriminator.run": ""}))
    model = model.replace(sampler=samplers.create("euler", n_steps=1, denoise=False))
    start = pipeline(config(**{"discriminator.run": ""}), lambda x, t: 0 * x).model
    scaled = model.replace(guides=(EpsilonScaling(1.5),)).sample(8)
    start = model.replace(model=start).sample(8)
    np.testing.assert_allclose(scaled - start, (model.sample(8) - start) / 1.5, atol=1e-4)


@pytest.mark.thorough
def test_all_guides_go_with_learned_variances():
    """Without effect they change no sample, bit for bit; with one they keep the variance."""
    both = lambda x, t: jnp.concatenate([-x, jnp.ones_like(x)], -1)  # noqa: E731
    model = pipeline(config(**{"discriminator.run": ""}), both)
    about = dataclasses.replace(model.model.preconditioning, learned_variance=True)
    sampler = samplers.create("ddpm", n_steps=4, variance="learned")
    model = model.replace(model=NoiseModel(model.network, about), sampler=sampler)
    params, log_probs = {"w": jnp.ones(3)}, lambda params, x, t: -x  # of two classes

    def guides(scale, weight, window):
        return (
            *(TimeShift(window), EpsilonScaling(scale)),
            Discriminator(half_the_square, params, weight, weight),
            *(Classifier(log_probs, (), 2, weight=weight), Clip(1e6 if weight == 0 else 1.0)),
        )

    plain = model.sample(8)
    np.testing.assert_array_equal(model.replace(guides=guides(1.0, 0.0, 0.0)).sample(8), plain)
    guided = model.replace(guides=guides(1.1, 0.5, 0.01)).sample(8)
    assert np.abs(guided - plain).max() > 0.1


def test_clipping_comes_last():
    options = {"discriminator.run": "", "clip.limit": 1.0, "epsilon_scaling.scale": 1.1}
    made = build_guidance.guides(config(**options), sde_lib.VP())
    assert made == (EpsilonScaling(1.1), Clip(1.0))
    with pytest.raises(ValueError, match=r"guidance\.clip\.limit is -1"):
        Clip(-1.0)
