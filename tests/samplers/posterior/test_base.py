"""The contract: every method draws by the same call, and what one may not do, no other may."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian, Mixture

import samplers
import sde_lib
from samplers import measurement, posterior

SOLVER = samplers.EulerAncestral(6)
MATRIX = np.array([[1.0, 0.4]], np.float32)
METHODS = {
    "moment_matching": {},
    "pigdm": {},
    "dps": {},
    "twisted_smc": {"n_particles": 4},
    "replacement": {},
}


def first(x):
    return x[:, :1]


def make(name):
    return posterior.create(name, **METHODS[name])


def draw(name, n, operator=first, y=None, noise_std=None, sde=SDES["vp"], solver=SOLVER, **options):
    y = jnp.linspace(-1.0, 1.0, n)[:, None] if y is None else y
    noise_std = 0.3 * (name != "replacement") if noise_std is None else noise_std
    score_fn = Mixture().score_fn(sde)
    about = sde, score_fn, operator, y, (n, 2), noise_std
    return make(name)(jax.random.key(0), solver, *about, **options)


def test_create_makes_every_method_by_name():
    assert METHODS.keys() == posterior.METHODS.keys()
    assert posterior.create("pigdm", data_std=0.5) == posterior.PiGDM(0.5)
    with pytest.raises(ValueError, match="did you mean 'pigdm'"):
        posterior.create("pidgm")
    with pytest.raises(ValueError, match="did you mean 'n_particles'"):
        posterior.create("twisted_smc", n_particle=2)
    with pytest.raises(ValueError, match="replacement has no options"):
        posterior.create("replacement", weight=1.0)


@pytest.mark.thorough
@pytest.mark.parametrize("name", METHODS)
def test_sample_i_does_not_depend_on_its_batch(name):
    y = jnp.linspace(-1.0, 1.0, 4)[:, None]
    whole = jax.jit(lambda: draw(name, 4, y=y).x)()
    part = jax.jit(lambda: draw(name, 2, y=y[2:], first_index=2).x)()
    np.testing.assert_allclose(whole[2:], part, rtol=1e-4, atol=1e-5)
    assert len(np.unique(whole, axis=0)) == 4


@pytest.mark.thorough
@pytest.mark.parametrize("name", METHODS)
def test_a_start_takes_the_place_of_the_prior(name):
    """From a low noise level near a mode, whatever the measurement says, the sample stays there."""
    mode = jnp.array([1.0, -0.5])
    start = samplers.Start(jnp.tile(mode, (2, 1)), 0.05)
    x = draw(name, 2, y=jnp.ones((2, 1)), start=start).x
    assert np.abs(x - mode).max() < 1.0


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["moment_matching", "pigdm", "dps"])
def test_methods_of_scores_are_their_score_and_the_sampler(name):
    sde, n, y = SDES["vp"], 3, jnp.zeros((3, 1))
    score_fn = Mixture().score_fn(sde)
    method = make(name)
    if name == "dps":
        method = posterior.DPS(n_steps=SOLVER.n_steps)
    conditional = method.condition(sde, score_fn, first, y, 0.3)
    expected = SOLVER(jax.random.key(0), sde, conditional, (n, 2)).x
    np.testing.assert_allclose(draw(name, n, y=y).x, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["moment_matching", "pigdm", "dps"])
def test_a_learned_variance_stays(name):
    sde, x, t = SDES["vp"], jnp.ones((2, 3)), jnp.full(2, 0.4)
    both = sde_lib.ScoreAndVariance(lambda x, t: (-x, 0.25 * jnp.ones_like(x)))
    conditional = make(name).condition(sde, both, first, jnp.zeros((2, 1)), 0.1)
    plain = make(name).condition(sde, lambda x, t: -x, first, jnp.zeros((2, 1)), 0.1)
    score, v = conditional.both(x, t)
    np.testing.assert_array_equal(v, 0.25 * np.ones((2, 3)))
    np.testing.assert_allclose(score, plain(x, t))


@pytest.mark.thorough
def test_guidance_composes_with_a_measurement():
    """Gaussian data with a log-density of a class added, and measured: the sum of both terms."""
    sde, x, t = SDES["vp"], jnp.ones((2, 3)), jnp.full(2, 0.4)
    score_fn = Gaussian().score_fn(sde)
    guided = samplers.guidance.gradient(score_fn, lambda x, t: -0.5 * jnp.sum(x, 1), 2.0)
    conditional = posterior.PiGDM().condition(sde, guided, measurement.grey, jnp.zeros((2, 1)))
    assert jnp.isfinite(conditional(x, t)).all()
    assert np.abs(conditional(x, t) - guided(x, t)).max() > 0.01


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": jnp.zeros((2, 2))}, r"y has the shape \(2, 2\): operator\(x\) has \(2, 1\)"),
        ({"y": jnp.zeros((3, 1))}, r"y has the shape \(3, 1\)"),
        ({"y": jnp.full((2, 1), np.nan)}, "y has values that are not finite"),
        ({"noise_std": -0.1}, "noise_std is -0.1"),
        ({"noise_std": float("nan")}, "noise_std is nan"),
        ({"operator": lambda x: x[:1, :1]}, r"operator changes the batch: x of \(2, 2\)"),
        ({"operator": lambda x: jnp.mean(x)[None]}, "operator changes the batch"),
        ({"operator": lambda x: x[::-1, :1]}, "operator mixes the samples of a batch"),
        ({"operator": lambda x: x[:, :1] - jnp.mean(x)}, "operator mixes the samples"),
        ({"operator": lambda x: (x[:, :1] > 0).astype(int)}, "returns int32, which has no deriv"),
        ({"operator": lambda x: x[:, :1] > 0}, "returns bool, which has no derivative"),
        ({"operator": lambda x: jnp.round(x[:, :1])}, "operator cannot be differentiated"),
        ({"operator": lambda x: jnp.sign(x[:, :1])}, "its derivative is 0"),
        ({"operator": lambda x: jnp.asarray(np.cos(np.asarray(x)))}, "write it with jax.numpy"),
        ({"operator": lambda x: jnp.fft.fft(x)}, "returns complex numbers"),
        ({"operator": lambda x: (x, x)}, "operator returns a tuple"),
        ({"operator": lambda x: x * np.ones((2, 3))}, "operator fails for x of"),
        ({"sde": sde_lib.CLD()}, "CLD has states that are more than the data"),
    ],
)
def test_measurements_that_do_not_fit_are_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: draw(name, 2, **change).x)


def test_a_callback_has_no_derivative():
    def operator(x):
        shape = jax.ShapeDtypeStruct((len(x), 1), x.dtype)
        return jax.pure_callback(lambda x: np.sin(np.asarray(x)[:, :1]), shape, x)

    with pytest.raises(ValueError, match="operator cannot be differentiated by JAX"):
        draw("dps", 2, operator=operator)


@pytest.mark.parametrize("name", ["moment_matching", "pigdm", "replacement"])
def test_linear_methods_refuse_other_operators(name):
    assert posterior.METHODS[name].linear
    with pytest.raises(ValueError, match=r"operator is not linear: .* dps or twisted_smc"):
        draw(name, 2, operator=lambda x: jnp.square(x[:, :1]) + x[:, :1])


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["dps", "twisted_smc"])
def test_other_methods_take_any_operator(name):
    assert not posterior.METHODS[name].linear
    assert jnp.isfinite(draw(name, 2, operator=lambda x: jnp.square(x[:, :1])).x).all()


@pytest.mark.parametrize("method", [posterior.DPS(step_size=None), posterior.TwistedSMC(2)])
def test_methods_that_divide_by_the_noise_refuse_0(method):
    sde, y = SDES["vp"], jnp.zeros((2, 1))
    with pytest.raises(ValueError, match="noise_std is 0, and this method divides by it"):
        method(jax.random.key(0), SOLVER, sde, Mixture().score_fn(sde), first, y, (2, 2))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["moment_matching", "pigdm", "dps", "replacement"])
def test_exact_measurements_give_finite_samples(name):
    assert jnp.isfinite(draw(name, 2, noise_std=0.0).x).all()


@pytest.mark.thorough
@pytest.mark.parametrize("name", METHODS)
def test_methods_work_in_double_precision(name):
    """Also with an operator that is computed in single precision, such as a decoder."""
    with jax.enable_x64(True):
        x = draw(name, 2, operator=lambda x: first(x).astype(jnp.float32)).x
        assert x.dtype == jnp.float64
        assert jnp.isfinite(x).all()


@pytest.mark.thorough
def test_scores_of_each_evaluation_go_to_samplers_that_take_them():
    sde, n, y = SDES["vp"], 2, jnp.zeros((2, 1))
    score_fn = Mixture().score_fn(sde)
    heun = samplers.Heun(4)
    both = (score_fn, score_fn)
    one, two = (
        make("pigdm")(jax.random.key(0), heun, sde, fn, first, y, (n, 2)).x
        for fn in (score_fn, both)
    )
    np.testing.assert_allclose(one, two, atol=1e-4)
    with pytest.raises(ValueError, match="score_fn is a tuple"):
        make("twisted_smc")(jax.random.key(0), heun, sde, both, first, y, (n, 2), 0.1)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["moment_matching", "pigdm", "replacement"])
def test_values_outside_the_mask_of_an_exact_measurement_are_refused(name):
    """They have no place in the measurement, and would spoil conjugate gradients."""

    def masked(x):
        return x * np.array([1.0, 0.0])

    with pytest.raises(ValueError, match=r"y has values where operator\(x\) is always 0"):
        draw(name, 2, operator=masked, y=jnp.ones((2, 2)), noise_std=0.0)
    seen = masked(jnp.ones((2, 2)))
    assert jnp.isfinite(draw(name, 2, operator=masked, y=seen, noise_std=0.0).x).all()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["moment_matching", "pigdm"])
def test_scores_given_a_measurement_have_derivatives(name):
    """Iterations that are exact before the last one leave nothing to divide by."""
    sde, t = sde_lib.EDM(), jnp.linspace(0.1, 2.0, 4)
    x, y = jax.random.normal(jax.random.key(0), (2, 4, 3))
    score_fn = Gaussian(0.0, 1.0).score_fn(sde)

    def total(noise_std):
        about = sde, score_fn, lambda x: x[:, :2], y[:, :2], noise_std
        return jnp.sum(make(name).condition(*about)(x, t))

    made = jax.grad(total)(0.1)
    expected = (total(0.101) - total(0.099)) / 0.002
    np.testing.assert_allclose(made, expected, rtol=1e-2)


@pytest.mark.parametrize("noise_std", [None, -0.1, "1"])
def test_noise_that_is_no_number_is_refused(noise_std):
    with pytest.raises(ValueError, match="noise_std"):
        make("pigdm").condition(SDES["vp"], Mixture().score_fn(SDES["vp"]), first, 0.0, noise_std)
