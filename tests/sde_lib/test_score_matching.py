import functools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import sde_lib
from sde_lib.batch import expand

sliced = sde_lib.sliced_score_matching
OBJECTIVES = {
    "explicit": sde_lib.explicit_score_matching,
    "sliced": partial(sliced, n_projections=2),
    "sliced_vr": partial(sliced, variance_reduction=True),
}
SHIFT, SLOPES = np.array([0.3, -0.5], np.float32), np.array([[-0.8, 0.6], [0.6, -1.5]], np.float32)

POINTS = jnp.asarray(0.1 * np.random.RandomState(0).randn(2000, 2), jnp.float32)


def linear(x, t):
    """A score of Jacobian SLOPES."""
    return SHIFT + jnp.dot(x, SLOPES, precision="highest")


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ve", "vp"])
def test_the_explicit_loss_of_a_gaussian_is_the_closed_form_at_every_sample(name):
    sde, gaussian = SDES[name], Gaussian()

    @jax.jit
    def losses(key):
        arguments = key, sde, gaussian.score_fn(sde), POINTS[:64]
        return sde_lib.explicit_score_matching(*arguments), sde_lib.perturb(key, sde, POINTS[:64])

    (loss, metrics), noisy = losses(jax.random.key(0))
    mean, std = gaussian.marginal(sde, noisy.t)
    share = (noisy.std / std) ** 2
    squares = ((noisy.x - expand(mean, noisy.x)) / expand(std, noisy.x)) ** 2
    exact = 0.5 * np.sum(share[:, None] * (squares - 2), axis=1)
    np.testing.assert_allclose(loss, exact, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["error"], exact + 1, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(metrics["t"], noisy.t)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("explicit", {}),
        ("sliced", {"likelihood_weighting": True, "importance_sampling": True}),
        ("sliced_vr", {"reduce_mean": True}),
    ],
)
def test_the_expected_loss_is_denoisings_less_a_constant(objective, options):
    """Mixture data and 1.2 times the exact score; both losses use the same t, z and x_t."""
    sde, mixture = SDES["vp"], Mixture()
    drawn = {name: options[name] for name in options.keys() - {"reduce_mean"}}

    @jax.jit
    def losses(key):
        x0, exact = mixture.sample(jax.random.key(1), 20_000), mixture.score_fn(sde)
        arguments = key, sde, lambda x, t: 1.2 * exact(x, t), x0
        denoising = sde_lib.denoising_score_matching(*arguments, **options)
        ours = OBJECTIVES[objective](*arguments, **options)
        return denoising, ours, sde_lib.perturb(key, sde, x0, **drawn).weight

    (denoising, about), (ours, metrics), constant = losses(jax.random.key(0))
    for difference in (denoising - ours - constant, about["error"] - metrics["error"]):
        error = float(np.std(difference) / math.sqrt(len(difference)))
        assert abs(float(difference.mean())) < 4 * error


def estimates(x0, score_of, *options):
    """(sliced - explicit) / sigma^2 with and without variance reduction, of each of `options`.

    Last, the scores.
    """

    @jax.jit
    def off(x0):
        sde, key = SDES["vp"], jax.random.key(0)
        score_fn, noisy = score_of(sde), sde_lib.perturb(key, sde, x0)
        exact, _ = sde_lib.explicit_score_matching(key, sde, score_fn, x0)

        def one(reduced, **options):
            loss, _ = sliced(key, sde, score_fn, x0, variance_reduction=reduced, **options)
            return (loss - exact) / noisy.std**2

        pairs = [(one(True, **each), one(False, **each)) for each in options]
        return *pairs, score_fn(noisy.x, noisy.t)

    return jax.tree.map(np.asarray, off(x0))


@functools.cache
def linear_estimates():
    """Estimates with Rademacher, one Gaussian, and four Gaussian projections."""
    gaussian = {"projection": "gaussian"}
    return estimates(POINTS, lambda sde: linear, {}, gaussian, gaussian | {"n_projections": 4})


@pytest.mark.thorough
def test_signs_as_projections_are_off_by_a_closed_form():
    """v_1 v_2 = +-1 is all that is random in the plane: v.Jv = tr J + 2 v_1 v_2 J_12, and so on."""
    (reduced, plain), *_, score = linear_estimates()
    exact = 2 * SLOPES[0, 1] * np.ones(len(score))
    for off, size in ((reduced, exact), (plain, exact + score[:, 0] * score[:, 1])):
        np.testing.assert_allclose(abs(off), abs(size), rtol=0.01, atol=0.01)
        signs = np.sign(off * size)
        assert abs(signs.mean()) < 4 / math.sqrt(len(signs))


@pytest.mark.parametrize("n", [1, 4])
def test_gaussian_projections_have_their_closed_form_variance(n):
    """Var v.Mv = 2 tr M^2, over the number of projections, with M = J, or J + s s^T / 2."""
    _, one, four, score = linear_estimates()
    reduced, plain = {1: one, 4: four}[n]
    whole = SLOPES + 0.5 * score[:, :, None] * score[:, None]
    for off, matrices in ((reduced, SLOPES), (plain, whole)):
        off = off / np.sqrt(2 * np.trace(matrices @ matrices, axis1=-2, axis2=-1) / n)
        assert off.var() == pytest.approx(1, rel=0.15)
        assert abs(off.mean()) < 4 / math.sqrt(len(off))


@pytest.mark.thorough
def test_variance_reduction_lowers_the_variance_as_far_as_a_gaussian_lets_it():
    """D Gaussian dimensions: by (D + 2) / 4 with normal projections, and to 0 with signs."""
    x0 = np.random.RandomState(0).randn(4000, 10).astype("f4")
    unit = partial(Gaussian.score_fn, Gaussian(0.0, 1.0))
    (reduced, plain), by_signs, _ = estimates(x0, unit, {"projection": "gaussian"}, {})
    assert plain.var() / reduced.var() == pytest.approx(3, rel=0.1)
    reduced, plain = by_signs
    np.testing.assert_allclose(reduced, 0, atol=1e-3)
    assert plain.var() == pytest.approx(0.5 * 10 * 9, rel=0.1)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_agree_with_finite_differences(objective):
    with jax.enable_x64(True):
        draws, shapes = np.random.RandomState(0), [(3, 8), (8, 8), (8, 3)]
        params, x0 = [draws.randn(*shape) / 3 for shape in shapes], draws.randn(5, 3)

        @jax.jit
        @jax.value_and_grad
        def loss(params):
            first, second, last = params

            def score_fn(x, t):
                h = jnp.tanh(jnp.tanh(x @ first + t[:, None]) @ second)
                return h @ last / (0.1 + t[:, None])

            key = jax.random.key(0)
            return OBJECTIVES[objective](key, SDES["vp"], score_fn, jnp.asarray(x0))[0].mean()

        _, gradient = loss(params)
        for name, (values, slopes) in enumerate(zip(params, gradient, strict=True)):
            step = np.zeros_like(values)
            step[1, 2] = 1e-4
            ahead, behind = (
                loss([*params[:name], values + sign * step, *params[name + 1 :]])[0]
                for sign in (1, -1)
            )
            assert float(slopes[1, 2]) == pytest.approx(float(ahead - behind) / 2e-4, rel=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("objective", ["explicit", "sliced"])
def test_a_sample_has_its_loss_in_any_part_of_the_batch_and_in_any_shape(objective):
    sde, gaussian = SDES["vp"], Gaussian()

    def score_fn(x, t):
        s = gaussian.score_fn(sde)(x, t)
        return s + 0.1 * jnp.sin(x) * jnp.roll(x, 1, axis=tuple(range(1, x.ndim)))

    def as_images(x, t):
        return score_fn(x.reshape(len(x), 4), t).reshape(x.shape)

    @jax.jit
    def losses(key, x0):
        part, _ = OBJECTIVES[objective](key, sde, score_fn, x0[4:], first_index=4)
        whole, _ = OBJECTIVES[objective](key, sde, score_fn, x0)
        images, _ = OBJECTIVES[objective](key, sde, as_images, x0.reshape(6, 2, 2, 1))
        return part, whole, images

    x0 = np.random.RandomState(0).randn(6, 4).astype("f4")
    part, whole, images = losses(jax.random.key(0), x0)
    np.testing.assert_allclose(part, whole[4:], rtol=1e-5)
    np.testing.assert_allclose(images, whole, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection": "radmacher"}, "did you mean 'rademacher'"),
        ({"n_projections": 0}, "n_projections is 0"),
        ({"input_perturbation": 0.1}, "have no target"),
        ({"score_fn": lambda x, t: x[:, :1]}, "must return the shape of x"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    arguments = {"score_fn": linear} | options
    with pytest.raises(ValueError, match=message):
        sliced(jax.random.key(0), SDES["vp"], x0=POINTS, **arguments)
