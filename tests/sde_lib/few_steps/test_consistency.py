"""Tests of the consistency loss on Gaussian data, whose consistency function is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian

import sde_lib
from sde_lib.batch import expand
from sde_lib.few_steps.consistency import Curriculum, consistency_loss, flow_step

SDES = {"edm": sde_lib.EDM(), "vp": sde_lib.VP(), "flow": sde_lib.LinearFlow()}
DATA = Gaussian()


def exact(sde, data=DATA):
    """The score whose estimate of the data is the end of the probability flow."""

    def score(x, t):
        mean, std = data.marginal(sde, t)
        end = data.mean + data.std * (x - expand(mean, x)) / expand(std, x)
        return (expand(sde.alpha(t), x) * end - x) / expand(sde.sigma(t), x) ** 2

    return score


def of_level(sde, level):
    return sde.inverse_noise_level(jnp.asarray(level))


def test_the_levels_of_a_pair_come_closer():
    curriculum, level = Curriculum(10, 0, 6), jnp.array([0.01, 1.0, 80.0])
    np.testing.assert_array_equal(curriculum.lower(level, 9), 0)  # denoising
    gaps = [1 - curriculum.lower(level, step) / level for step in (30, 40, 59, 60, 1000, None)]
    expected = (1 + 8 / (1 + np.exp(level))) / 2 ** np.array([[3], [4], [5], [6], [6], [6]])
    np.testing.assert_allclose(gaps, np.minimum(expected, 1), rtol=1e-5)
    assert Curriculum(10, 2, 6).lower(level, 5)[2] == 60.0


@pytest.mark.parametrize("name", SDES)
def test_the_first_stage_without_a_teacher_is_denoising(name):
    sde, key = SDES[name], jax.random.key(0)
    x0 = DATA.sample(jax.random.key(1), (64, 3))
    score_fn = DATA.score_fn(sde)
    loss, metrics = consistency_loss(key, sde, score_fn, x0, step=0, huber=0.0)
    x, t, *_ = sde_lib.perturb(key, sde, x0)
    error = jnp.linalg.norm(sde.denoise(x, t, score_fn(x, t)) - x0, axis=1)
    np.testing.assert_allclose(loss, error / sde.noise_level(t), rtol=1e-4)
    np.testing.assert_array_equal(metrics["t"], t)


@pytest.mark.parametrize("name", SDES)
def test_the_steps_of_a_teacher_have_second_order(name):
    sde = SDES[name]
    y = jnp.linspace(-3.0, 3.0, 7)[:, None]
    level = jnp.full(7, 2.0)

    def miss(r):
        std = np.hypot(DATA.std, np.array([2.0, r]))
        true = DATA.mean + std[1] / std[0] * (y - DATA.mean)
        return np.abs(flow_step(sde, DATA.score_fn(sde), y, level, jnp.full(7, r)) - true).max()

    assert miss(1.6) / miss(1.8) == pytest.approx(8, rel=0.3)
    euler = DATA.mean + DATA.std**2 / (DATA.std**2 + 4) * (y - DATA.mean)
    end = flow_step(sde, DATA.score_fn(sde), y, level, jnp.zeros(7))
    np.testing.assert_allclose(end, euler, rtol=1e-3, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SDES)
def test_distillation_has_no_loss_at_the_exact_consistency_function(name):
    sde, key = SDES[name], jax.random.key(0)
    x0 = DATA.sample(jax.random.key(1), (512, 4))
    density = sde_lib.noise_density.create("log_normal", sde)

    def loss(score_fn, last_stage):
        about = {"teacher": DATA.score_fn(sde), "noise_density": density, "huber": 0.0}
        curriculum = Curriculum(last_stage=last_stage)
        return consistency_loss(key, sde, score_fn, x0, curriculum, **about)[0].mean()

    at_truth = [loss(exact(sde), stage) for stage in (4, 6)]
    assert at_truth[1] < 2e-3
    assert at_truth[1] < at_truth[0] / 10  # Heun's error for a unit of the noise level
    assert loss(DATA.score_fn(sde), 6) > 100 * at_truth[1]  # the estimate is a mean, no sample


@pytest.mark.thorough
def test_training_leads_to_the_exact_consistency_function():
    """The best linear answers along a chain of pairs come to std / sqrt(std^2 + l^2).

    f(y, l) = k(l) y of standard normal data times s: given k(r), the square of the distance is
    least for k(l) = k(r) E[y_l y_r] / E[y_l^2] = k(r) (s^2 + l r) / (s^2 + l^2).
    """
    sde, data = sde_lib.EDM(), Gaussian(0.0)
    levels = np.geomspace(1e-3, 80.0, 4000)
    factors = (data.std**2 + levels[1:] * levels[:-1]) / (data.std**2 + levels[1:] ** 2)
    k = np.cumprod(factors)
    truth = data.std / np.hypot(data.std, levels[1:])
    np.testing.assert_allclose(k, truth, rtol=2e-2)

    x0 = data.sample(jax.random.key(1), (200_000, 1))
    level, r = 2.0, float(Curriculum().lower(jnp.array([2.0]), 3000)[0])
    fixed = data.std / np.hypot(data.std, r)

    def total(slope):
        def score(x, t):
            at_r = jnp.isclose(t, r, rtol=1e-4)[:, None]
            estimate = jnp.where(at_r, fixed, slope) * x
            return (estimate - x) / t[:, None] ** 2

        density = lambda u: jnp.full_like(u, -2 * np.log(level))  # noqa: E731
        about = Curriculum(), 3000
        losses, _ = consistency_loss(
            jax.random.key(0), sde, score, x0, *about, huber=100.0, noise_density=density
        )
        return losses.mean()

    best = fixed * (data.std**2 + level * r) / (data.std**2 + level**2)
    slope_of_loss = jax.jit(jax.grad(total))
    below, above = (float(slope_of_loss(best + away)) for away in (-0.02, 0.02))
    at_best = float(slope_of_loss(best))
    assert below < 0 < above
    assert abs(at_best) < 0.05 * (above - below)


@pytest.mark.thorough
def test_the_gradient_of_the_target_is_stopped():
    sde, key = sde_lib.EDM(), jax.random.key(0)
    x0 = DATA.sample(jax.random.key(1), (8, 2))

    def loss(own, target):
        calls = iter([target, own])  # the target comes first
        score_fn = lambda x, t: next(calls) * DATA.score_fn(sde)(x, t)  # noqa: E731
        return consistency_loss(key, sde, score_fn, x0)[0].sum()

    by_own, by_target = jax.grad(loss, (0, 1))(1.0, 1.0)
    assert by_own != 0
    assert by_target == 0


@pytest.mark.thorough
def test_sample_i_depends_on_its_index_alone():
    sde, x0 = sde_lib.EDM(), DATA.sample(jax.random.key(1), (8, 2))
    whole, _ = consistency_loss(jax.random.key(0), sde, DATA.score_fn(sde), x0)
    part, _ = consistency_loss(jax.random.key(0), sde, DATA.score_fn(sde), x0[5:], first_index=5)
    np.testing.assert_allclose(whole[5:], part, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0, 0, 8), "stage_steps is 0"),
        ((10, 5, 3), "first_stage is 5, above last_stage = 3"),
        ((10, 0, 21), "last_stage is 21"),
    ],
)
def test_an_impossible_curriculum_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Curriculum(*options)


@pytest.mark.thorough
def test_states_that_are_not_the_data_are_refused():
    with pytest.raises(ValueError, match="CLD does not have"):
        consistency_loss(jax.random.key(0), sde_lib.CLD(), lambda x, t: x, jnp.ones((2, 2)))
