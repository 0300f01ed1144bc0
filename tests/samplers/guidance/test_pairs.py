from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian

import samplers
import sde_lib
from samplers import guidance
from sde_lib import ScoreAndVariance
from sde_lib.batch import expand

EDM = sde_lib.EDM()
GOOD, BAD = Gaussian(0.0, 0.8), Gaussian(0.0, 1.6)


def flow_std(sde, weight, std):
    """The standard deviation that the guided flow takes N(0, std^2) at t_max to."""
    guided = guidance.autoguidance(GOOD.score_fn(sde), BAD.score_fn(sde), weight)
    start = samplers.Start(jnp.full((1, 1), std), sde.t_max)
    sampler = samplers.ProbabilityFlow(1e-5, 1e-6)
    return float(sampler(jax.random.key(0), sde, guided, (1, 1), start=start).x[0, 0])


@pytest.mark.thorough
def test_autoguidance_goes_from_std_to_std_in_proportion():
    """The flow of s_g + w (s - s_g), of two Gaussians, ends at std^w other^(1 - w).

    So the weight log(0.5 / 1.6) / log(0.8 / 1.6) gives data of std 0.5, of which the two models are
    worse and worse copies. The prior is that of the guided marginals at t_max.
    """
    for weight in (1.0, 1.5, np.log(0.5 / 1.6) / np.log(0.8 / 1.6)):
        wide, wider = (np.hypot(each.std, EDM.t_max) for each in (GOOD, BAD))
        found = flow_std(EDM, float(weight), wide**weight * wider ** (1 - weight))
        np.testing.assert_allclose(found, 0.8**weight * 1.6 ** (1 - weight), rtol=2e-3)
    assert found == pytest.approx(0.5, rel=2e-3)


def batch(sde, n=4):
    """States, times, and two scores of theirs with different estimates of x_0, [n, 3, 3, 1]."""
    t = jnp.linspace(0.05, 1.0, n) * sde.t_max
    keys = jax.random.split(jax.random.key(0), 3)
    x, own, other = (jax.random.normal(key, (n, 3, 3, 1)) for key in keys)
    scale = expand(sde.sigma(t), x)
    return scale * x, t, own / scale, other / scale


def estimate(sde, x, t, score):
    return np.float64(sde.denoise(x, t, score)).reshape(len(x), -1)


@pytest.mark.parametrize("weight", [0.0, 2.5, jnp.float32(1), lambda t: 2 * t])
def test_autoguidance_is_its_formula_and_keeps_the_variance(weight):
    x, t, own, other = batch(SDES["vp"])
    guided = guidance.autoguidance(
        ScoreAndVariance(lambda x, t: (own, x)), lambda x, t: other, weight
    )
    w = expand(weight(t) if callable(weight) else jnp.asarray(weight), x)
    score, variance = guided.both(x, t)
    np.testing.assert_allclose(score, other + w * (own - other), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(variance, x)


def test_the_guide_model_is_not_evaluated_outside_of_the_interval():
    vp, t = SDES["vp"], jnp.full(2, 0.5)
    level = float(vp.noise_level(t)[0])
    broken = lambda x, t: x * jnp.nan  # noqa: E731
    for low, high, shown in ((0, level / 2, True), (0, level * 2, False)):
        weight = guidance.SCHEDULES["interval"](2.0, vp, low=low, high=high)
        guided = guidance.autoguidance(lambda x, t: -x, broken, weight)
        assert jnp.isfinite(guided(jnp.ones((2, 3)), t)).all() == shown
    plain = lambda x, t: -x  # noqa: E731
    assert guidance.autoguidance(plain, broken, 1.0) is plain


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescaled_guidance_has_the_contrast_of_the_unguided_estimate(name, phi):
    """Eq. 15 and 16 of Lin et al. 2023, in the estimates of x_0."""
    sde = SDES[name]
    x, t, own, other = batch(sde)
    form = partial(guidance.Rescale(phi), sde)
    score = guidance.autoguidance(lambda x, t: own, lambda x, t: other, 3.0, form)(x, t)
    plain, found = (estimate(sde, x, t, s) for s in (other + 3.0 * (own - other), score))
    ratio = estimate(sde, x, t, own).std(1) / plain.std(1)
    expected = phi * ratio[:, None] * plain + (1 - phi) * plain
    size = np.abs(plain).max(1, keepdims=True)
    np.testing.assert_allclose(found / size, expected / size, atol=1e-4)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize(("eta", "threshold"), [(1.0, None), (0.0, None), (0.5, 0.3)])
def test_projected_guidance_is_its_formula(name, eta, threshold):
    """Section 4 of Sadat et al. 2024; a weight of 1 on the first sample changes nothing there."""
    sde = SDES[name]
    x, t, own, other = batch(sde)
    w = jnp.array([1.0, 1.5, 2.0, 4.0])
    form = partial(guidance.Projected(eta, threshold), sde)
    weight = lambda _: w  # noqa: E731
    score = guidance.autoguidance(lambda x, t: own, lambda x, t: other, weight, form)(x, t)
    mine, theirs, found = (estimate(sde, x, t, s) for s in (own, other, score))
    difference = mine - theirs
    if threshold is not None:
        norm = np.linalg.norm(difference, axis=1, keepdims=True)
        difference *= np.minimum(1, threshold / norm)
    unit = mine / np.linalg.norm(mine, axis=1, keepdims=True)
    along = np.sum(difference * unit, axis=1, keepdims=True) * unit
    expected = mine + (np.float64(w)[:, None] - 1) * (difference + (eta - 1) * along)
    size = np.abs(mine).max(1, keepdims=True)
    np.testing.assert_allclose(found / size, expected / size, atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "rescale", "projected"])
def test_classifier_free_guidance_takes_the_same_updates(name):
    """Of all channels, of the first alone, and with the weight 0, which needs both scores."""
    sde = SDES["vp"]
    x, t, own, other = batch(sde)
    x, own, other = (jnp.concatenate([a, 2 * a], -1) for a in (x, own, other))
    form, label = partial(guidance.FORMS[name](), sde), jnp.zeros(4, int)

    def conditional(x, t, label):
        scores = jnp.concatenate([own] * 2), jnp.concatenate([other] * 2)
        return jnp.where(expand(label, x) == 0, *(s[: len(x)] for s in scores))

    for weight in (0.0, 1.0, 2.5):
        auto = guidance.autoguidance(lambda x, t: own, lambda x, t: other, weight, form)(x, t)
        free = guidance.classifier_free(conditional, label, weight, form=form)(x, t)
        np.testing.assert_allclose(free, auto, rtol=1e-3, atol=1e-3)
        some = guidance.classifier_free(conditional, label, weight, channels=1, form=form)(x, t)
        np.testing.assert_allclose(some[..., 1:], own[..., 1:], rtol=1e-5)
        one = guidance.autoguidance(
            lambda x, t: own[..., :1], lambda x, t: other[..., :1], weight, form
        )(x[..., :1], t)
        np.testing.assert_allclose(some[..., :1], one, rtol=1e-3, atol=1e-3)


def test_impossible_numbers_are_refused():
    plain = lambda x, t: x  # noqa: E731
    for make, words in (
        (lambda: guidance.Rescale(1.5), r"phi is 1.5: it must be in \[0, 1\]"),
        (lambda: guidance.Projected(eta=-1.0), "eta is -1.0"),
        (lambda: guidance.Projected(threshold=0.0), "threshold is 0.0: it must be positive"),
        (lambda: guidance.autoguidance(plain, plain, -1.0), "weight is -1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
