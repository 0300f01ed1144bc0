import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian
from scipy import ndimage

import samplers
import sde_lib
from samplers import measurement, posterior

SHAPE = (2, 3, 2)  # height, width, channels
MASK = np.array([[True, False, False], [True, True, False]])
OPERATORS = {"inpainting": measurement.inpainting(MASK), "grey": measurement.grey}


class Correlated:
    """x_0 ~ N(mean, covariance): neighbouring pixels, and the channels of each, go together."""

    def __init__(self):
        rows, columns = np.indices(SHAPE[:2]).reshape(2, -1)
        squares = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
        channels = np.array([[1, 0.6], [0.6, 0.8]])
        self.dims = np.prod(SHAPE)
        self.mean = 0.3 * np.sin(np.arange(self.dims))
        self.covariance = np.kron(np.exp(-squares / 4), channels) / 4 + 0.02 * np.eye(self.dims)

    def score_fn(self, sde):
        variances, axes = np.linalg.eigh(self.covariance)

        def score(x, t):
            alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
            along = (x.reshape(len(x), -1) - alpha * self.mean) @ axes
            return -((along / (alpha**2 * variances + sigma**2)) @ axes.T).reshape(x.shape)

        return score

    def given(self, operator, y, noise_std):
        """Mean and covariance of x_0 given y, in double precision."""
        a = matrix(operator)
        seen = a @ self.covariance @ a.T + noise_std**2 * a @ np.linalg.pinv(a)
        gain = self.covariance @ a.T @ np.linalg.pinv(seen, rcond=1e-10)
        return self.mean + gain @ (y - a @ self.mean), self.covariance - gain @ a @ self.covariance

    def measure(self, operator, noise_std, seed=0):
        random = np.random.RandomState(seed)
        x0 = random.multivariate_normal(self.mean, self.covariance)
        a = matrix(operator)
        return x0, a @ (x0 + noise_std * np.linalg.pinv(a) @ random.randn(len(a)))


def matrix(operator):
    columns = operator(jnp.eye(np.prod(SHAPE)).reshape(-1, *SHAPE))
    return np.asarray(columns, np.float64).reshape(len(columns), -1).T


def condition(sde, operator, y, n, noise_std=0.0, n_iterations=6):
    """The conditional score for n images of one y; the operators have rank 6."""
    seen = OPERATORS[operator](jnp.zeros((n, *SHAPE)))
    y = jnp.broadcast_to(jnp.asarray(y, jnp.float32).reshape(seen[:1].shape), seen.shape)
    return measurement.condition(
        sde, Correlated().score_fn(sde), OPERATORS[operator], y, noise_std, n_iterations
    )


@pytest.mark.parametrize(
    ("name", "operator", "noise_std"),
    [
        ("ve", "inpainting", 0.0),
        ("ve", "grey", 0.1),
        ("vp", "inpainting", 0.1),
        ("vp", "grey", 0.0),
        ("subvp", "inpainting", 0.0),
        ("subvp", "grey", 0.0),
    ],
)
def test_the_score_of_gaussian_data_is_the_closed_form(name, operator, noise_std):
    sde, data = SDES[name], Correlated()
    x0, y = data.measure(OPERATORS[operator], noise_std)
    mean, covariance = data.given(OPERATORS[operator], y, noise_std)
    times = np.array([0.01, 0.1, 0.3, 0.6, 1.0])
    alpha, sigma = (np.asarray(a, np.float64) for a in (sde.alpha(times), sde.sigma(times)))
    x = alpha[:, None] * x0 + sigma[:, None] * np.random.RandomState(1).randn(5, data.dims)
    score_fn = jax.jit(condition(sde, operator, y, 5, noise_std, n_iterations=10))
    score = score_fn(jnp.asarray(x, jnp.float32).reshape(5, *SHAPE), jnp.asarray(times))
    for k in range(5):
        variance = alpha[k] ** 2 * covariance + sigma[k] ** 2 * np.eye(data.dims)
        exact = -np.linalg.solve(variance, x[k] - alpha[k] * mean)
        error = np.abs(np.ravel(score[k]) - exact).max() / np.abs(exact).max()
        assert error < 2e-4, f"t = {times[k]}: off by {error:.1e}"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "operator", "sampler"),
    [
        ("ve", "inpainting", samplers.PredictorCorrector(100, "euler_maruyama")),
        ("vp", "grey", samplers.PredictorCorrector(100)),
        ("subvp", "inpainting", samplers.PredictorCorrector(100, "euler_maruyama", "none")),
    ],
    ids=["ve", "vp", "subvp"],
)
def test_samples_have_the_conditional_moments(name, operator, sampler):
    assert_conditional_moments(name, operator, sampler, 1500, None, 4 / np.sqrt(1500) + 0.02, 0.12)


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "operator"), [("ve", "grey"), ("vp", "inpainting")])
def test_the_flow_has_the_conditional_moments(name, operator):
    """It is affine: 24 points with the moments of the prior end with those of the samples."""
    units, sampler = np.eye(12).reshape(-1, *SHAPE), samplers.ProbabilityFlow(1e-3, 1e-3, True)
    x = SDES[name].prior_std * np.sqrt(12) * np.concatenate([units, -units])
    start = samplers.Start(jnp.asarray(x), SDES[name].t_max)
    assert_conditional_moments(name, operator, sampler, 24, start, 0.02, 0.02)


def assert_conditional_moments(name, operator, sampler, n, start, mean_error, covariance_error):
    """Checks n samples: measured values come back to float32's precision, without noise."""
    sde, data = SDES[name], Correlated()
    _, y = data.measure(OPERATORS[operator], 0.0)
    mean, covariance = data.given(OPERATORS[operator], y, 0.0)
    score_fn = condition(sde, operator, y, n)
    run = jax.jit(lambda key: sampler(key, sde, score_fn, (n, *SHAPE), start=start).x)
    x = np.asarray(run(jax.random.key(0)), np.float64).reshape(n, -1)
    np.testing.assert_allclose(x @ matrix(OPERATORS[operator]).T, np.tile(y, (n, 1)), atol=1e-5)
    widest = np.sqrt(np.diag(covariance).max())
    np.testing.assert_allclose(x.mean(0), mean, atol=mean_error * widest)
    error = np.linalg.norm(np.cov(x.T, bias=True) - covariance) / np.linalg.norm(covariance)
    assert error < covariance_error


@pytest.mark.thorough
def test_each_sample_has_its_own_iterations_and_measurement():
    sde, data, t = SDES["vp"], Correlated(), jnp.array([0.02, 0.4, 0.9])
    x, y = jax.random.normal(jax.random.key(0), (2, 3, *SHAPE))
    together, alone = (
        jax.jit(
            measurement.condition(
                sde, data.score_fn(sde), OPERATORS["grey"], y[part, ..., :1], 0.1, 2
            )
        )
        for part in (slice(None), slice(1, 2))
    )
    np.testing.assert_allclose(together(x, t)[1:2], alone(x[1:2], t[1:2]), rtol=1e-4)


def test_a_measurement_without_new_information_changes_nothing():
    """All residuals are 0: conjugate gradients would divide by them."""
    sde, t = SDES["ve"], jnp.array([1e-5, 0.5, 1.0])
    x, score_fn = 1e-3 * jnp.ones((3, *SHAPE)), Gaussian().score_fn(sde)
    y = measurement.grey(sde.denoise(x, t, score_fn(x, t)))
    conditional = measurement.condition(sde, score_fn, measurement.grey, y)
    np.testing.assert_array_equal(conditional(x, t), score_fn(x, t))


@pytest.mark.thorough
def test_a_jacobian_that_is_no_covariance_is_ignored():
    """The denoised image of a poor network may move against its input, or across it."""
    sde, x = SDES["ve"], jax.random.normal(jax.random.key(0), (4, 1, 2, 1))
    turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    for jacobian in (-jnp.eye(2), turn):

        def score_fn(x, t, jacobian=jacobian):
            moved = (x.reshape(4, 2) @ jacobian).reshape(x.shape)
            return (moved - x) / sde.sigma(t)[:, None, None, None] ** 2

        conditional = measurement.condition(sde, score_fn, lambda x: x, jnp.ones_like(x))
        t = jnp.full(4, 0.3)
        np.testing.assert_allclose(conditional(x, t), score_fn(x, t))


def test_the_score_runs_once_whatever_the_number_of_iterations():
    sde, calls = SDES["vp"], []

    def score_fn(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return -x

    conditional = measurement.condition(
        sde, score_fn, measurement.grey, jnp.ones((2, 1, 1, 1)), n_iterations=5
    )
    jax.jit(conditional)(jnp.zeros((2, 1, 1, 3)), jnp.full(2, 0.5))
    jax.effects_barrier()
    assert len(calls) == 1


def test_operators_keep_what_they_should():
    x = jnp.arange(12.0).reshape(1, *SHAPE)
    np.testing.assert_array_equal(measurement.inpainting(MASK)(x)[0][MASK], x[0][MASK])
    assert not measurement.inpainting(MASK[..., None])(x)[0][~MASK].any()
    np.testing.assert_array_equal(measurement.grey(x)[..., 0], x[..., 0] + 0.5)


def test_mistakes_are_refused():
    sde, score_fn, x = SDES["vp"], Gaussian().score_fn(SDES["vp"]), jnp.zeros((2, *SHAPE))
    with pytest.raises(ValueError, match=r"mask has the shape \(4,\)"):
        measurement.inpainting(np.ones(4, bool))
    with pytest.raises(ValueError, match="nothing is known"):
        measurement.inpainting(np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match="noise_std is -1"):
        measurement.condition(sde, score_fn, measurement.grey, x, -1.0)
    with pytest.raises(ValueError, match="n_iterations is 0"):
        measurement.condition(sde, score_fn, measurement.grey, x, n_iterations=0)
    conditional = measurement.condition(sde, score_fn, measurement.grey, x)
    with pytest.raises(ValueError, match=r"y has the shape \(2, 2, 3, 2\): operator"):
        samplers.EulerMaruyama(10)(jax.random.key(0), sde, conditional, x.shape)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (lambda x: x + 1, r"operator\(0\) has values up to 1; subtract"),
        (lambda x: x**2, r"operator\(u - 2 v\) differs"),
        (jnp.abs, r"operator\(u - 2 v\) differs"),
    ],
)
def test_operators_that_are_not_linear_are_refused(operator, message):
    x, t = jnp.ones((2, 4, 4, 1)), jnp.full(2, 0.5)
    score = measurement.condition(sde_lib.VP(), lambda x, t: -x, operator, jnp.zeros_like(x))
    with pytest.raises(ValueError, match=rf"operator is not linear: {message}"):
        jax.jit(score)(x, t)


def test_a_mask_may_be_traced():
    x, t = jnp.ones((2, 4, 4, 1)), jnp.full(2, 0.5)

    @jax.jit
    def score(mask):
        made = measurement.condition(sde_lib.VP(), lambda x, t: -x, lambda x: mask * x, 0 * x)
        return made(x, t)

    assert jnp.isfinite(score(jnp.ones((4, 4, 1)))).all()


def test_downsampling_takes_means_over_blocks():
    x = np.random.RandomState(0).randn(2, 4, 6, 3).astype(np.float32)
    expected = x.reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(measurement.downsampling(2)(x), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="factor is 4, which does not divide the side 6"):
        measurement.downsampling(4)(x)
    with pytest.raises(ValueError, match="factor is 0"):
        measurement.downsampling(0)


def test_convolution_is_scipy_s_with_a_mirror_at_the_edges():
    random = np.random.RandomState(0)
    x, kernel = random.randn(2, 6, 5, 3), random.randn(5, 3)
    expected = ndimage.correlate(x, kernel[None, :, :, None], mode="reflect")
    seen = measurement.convolution(kernel)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(seen, expected, atol=1e-4)
    blurred = measurement.blur(0.8)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(
        blurred, ndimage.gaussian_filter(x, (0, 0.8, 0.8, 0), radius=(0, 3, 3, 0)), atol=1e-4
    )
    for wrong in (np.ones((2, 3)), np.ones(3), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="must be a matrix of finite numbers with odd sides"):
            measurement.convolution(wrong)
    with pytest.raises(ValueError, match="std is 0"):
        measurement.blur(0.0)


@pytest.mark.thorough
def test_fourier_keeps_the_frequencies_of_its_mask():
    x, mask = np.random.RandomState(0).randn(2, 4, 6, 2), np.zeros((4, 6), bool)
    mask[0], mask[:, 0] = True, True
    seen = measurement.fourier(mask)(jnp.asarray(x, jnp.float32))
    spectrum = np.fft.fft2(x, axes=(1, 2), norm="ortho") * mask[..., None]
    np.testing.assert_allclose(seen[..., 0], spectrum.real, atol=1e-5)
    np.testing.assert_allclose(seen[..., 1], spectrum.imag, atol=1e-5)
    squares = jnp.sum(measurement.fourier(np.ones((4, 6)))(jnp.asarray(x)) ** 2)
    np.testing.assert_allclose(squares, np.sum(x**2), rtol=1e-5)
    measurement.check_linear(measurement.fourier(mask), x.shape)
    series = measurement.fourier(np.ones(4))(jnp.ones((2, 4, 3)))
    np.testing.assert_allclose(series[:, 0, :, 0], 2.0, rtol=1e-5)
    with pytest.raises(ValueError, match=r"mask has the shape \(4, 6\), x \(2, 6, 4, 2\)"):
        measurement.fourier(mask)(jnp.zeros((2, 6, 4, 2)))
    with pytest.raises(ValueError, match="no frequency is measured"):
        measurement.fourier(np.zeros((4, 6)))


@pytest.mark.thorough
def test_phase_retrieval_keeps_magnitudes_and_has_a_gradient_at_0():
    x = np.random.RandomState(0).randn(2, 4, 6, 1).astype(np.float32)
    operator = measurement.phase_retrieval(np.ones((4, 6)))
    expected = np.abs(np.fft.fft2(x, axes=(1, 2), norm="ortho"))
    np.testing.assert_allclose(operator(x), expected, atol=1e-5)
    np.testing.assert_allclose(operator(np.roll(x, (1, 2), (1, 2))), expected, atol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(operator(x)))(jnp.zeros_like(x))
    assert jnp.isfinite(gradient).all()
    with pytest.raises(ValueError, match="operator is not linear"):
        measurement.check_linear(operator, x.shape)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "operator",
    [
        measurement.blur(0.5),
        measurement.downsampling(2),
        measurement.fourier(np.eye(4)),
        measurement.grey,
    ],
)
@pytest.mark.parametrize("method", [posterior.MomentMatching(), posterior.PiGDM()])
def test_methods_bring_the_measurement_back(method, operator):
    """Exact measurements of Gaussian data."""
    sde, x0 = SDES["vp"], 0.3 + 0.7 * jax.random.normal(jax.random.key(0), (2, 4, 4, 2))
    about = sde, Gaussian().score_fn(sde), operator, operator(x0), x0.shape
    x = jax.jit(lambda key: method(key, samplers.Heun(20), *about).x)(jax.random.key(1))
    far = jnp.abs(operator(x0) - operator(jnp.full_like(x0, 0.3))).max()
    assert jnp.abs(operator(x) - operator(x0)).max() < 0.2 * far


@pytest.mark.thorough
def test_phases_are_retrieved_up_to_what_magnitudes_leave_open():
    """Samples of twisted SMC fit the magnitudes far better than samples of the prior do."""
    sde, data = SDES["vp"], Gaussian(0.3, 0.7)
    operator = measurement.phase_retrieval(np.ones((2, 2)))
    x0 = data.sample(jax.random.key(0), (8, 2, 2, 1))
    about = sde, data.score_fn(sde), operator, operator(x0), x0.shape, 0.1
    method, solver = posterior.TwistedSMC(32, data_std=data.std), samplers.EulerAncestral(40)
    x = jax.jit(lambda key: method(key, solver, *about).x)(jax.random.key(1))
    misfit = jnp.sqrt(jnp.mean((operator(x) - operator(x0)) ** 2))
    prior = operator(data.sample(jax.random.key(2), x0.shape))
    assert misfit < 0.15 < 0.4 * jnp.sqrt(jnp.mean((prior - operator(x0)) ** 2))
