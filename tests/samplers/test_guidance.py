import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closed_forms import SDES, Correlated, Gaussian, Mixture

import samplers
import sde_lib
from samplers import guidance
from sde_lib.batch import expand

EDM = sde_lib.EDM()
DATA = Correlated((0.5, -0.3, 0.2), ((0.6, 0.0, 0.0), (0.3, 0.4, 0.0), (-0.2, 0.1, 0.5)))
MODEL = Correlated((0.2, 0.1, 0.0), ((0.5, 0.0, 0.0), (-0.1, 0.6, 0.0), (0.1, 0.2, 0.6)))


def classifier(sde, component):
    """log p(component | x_t = x) of the mixture: Bayes' rule."""
    mixture = Mixture()

    def log_prob(x, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        variance = (alpha * mixture.std) ** 2 + sigma**2
        squares = jnp.sum(
            (x[:, None] - alpha[:, None, None] * jnp.array(mixture.means)) ** 2, axis=-1
        )
        logits = jnp.log(jnp.array(mixture.weights)) - 0.5 * squares / variance[:, None]
        return jax.nn.log_softmax(logits)[:, component]

    return log_prob


def of_class(sde):
    """The mixture's score given a component, [B]; without one where that is -1."""
    mixture = Mixture()

    def score(x, t, label):
        alpha = sde.alpha(t)
        variance = (alpha * mixture.std) ** 2 + sde.sigma(t) ** 2
        mean = alpha[:, None] * jnp.array(mixture.means)[label]
        given = (mean - x) / variance[:, None]
        return jnp.where(label[:, None] < 0, mixture.score_fn(sde)(x, t), given)

    return score


def states(sde, n=4, dims=2):
    """x of the size that x_t has, at n times."""
    t = jnp.linspace(0.01, 1.0, n) * sde.t_max
    return expand(sde.sigma(t), jnp.zeros((n, dims))) * jax.random.normal(
        jax.random.key(0), (n, dims)
    ), t


def heun(score_fn, shape, n_steps=40, sde=EDM, start=None):
    sampler = samplers.Heun(n_steps)
    return jax.jit(lambda key: sampler(key, sde, score_fn, shape, start=start).x)(jax.random.key(1))


def sigma_points(d):
    """2 d points whose mean is 0 and whose covariance, by the factor 1 / (2 d), is I."""
    return np.sqrt(d) * np.concatenate([np.eye(d), -np.eye(d)])


def heun_moments(score_fn, n_steps=40, sde=EDM):
    """Mean and covariance of the samples from an affine score in space, exactly."""
    start = samplers.Start(sde.prior_std * sigma_points(3), sde.t_max)
    x = np.float64(heun(score_fn, (6, 3), n_steps, sde, start))
    return x.mean(0), np.cov(x.T, bias=True)


@pytest.mark.parametrize("name", SDES)
def test_a_classifier_turns_the_unconditional_score_into_that_of_its_class(name):
    sde, mixture = SDES[name], Mixture()
    x, t = states(sde)
    guided = guidance.gradient(mixture.score_fn(sde), classifier(sde, 0))
    exact = jax.jit(of_class(sde))(x, t, jnp.zeros(4, int))
    np.testing.assert_allclose(jax.jit(guided)(x, t), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
def test_a_sampler_with_the_guided_score_draws_the_class():
    """The flow to one Gaussian is affine, so it takes four points to its mean and covariance."""
    sde, mixture = SDES["vp"], Mixture()
    score_fn = guidance.gradient(mixture.score_fn(sde), classifier(sde, 0))
    sampler = samplers.ProbabilityFlow(1e-4, 1e-4)
    start = samplers.Start(sde.prior_std * sigma_points(2), sde.t_max)
    run = jax.jit(lambda key: sampler(key, sde, score_fn, (4, 2), start=start).x)
    x = run(jax.random.key(0))
    np.testing.assert_allclose(x.mean(0), mixture.means[0], atol=4 * mixture.std / np.sqrt(4000))
    np.testing.assert_allclose(x.std(0), mixture.std, rtol=0.05)


@pytest.mark.thorough
def test_the_weight_is_a_number_or_a_function_of_time():
    x, t = jnp.ones((3, 2)), jnp.array([0.1, 0.5, 1.0])
    for weight, factors in (
        (3.0, jnp.full(3, 3.0)),
        (jnp.float32(3), jnp.full(3, 3.0)),
        (lambda t: 1 + t, 1 + t),
        (lambda t: jnp.where(t < 0.2, 0.0, t), jnp.array([0.0, 0.5, 1.0])),
    ):
        guided = guidance.gradient(lambda x, t: -x, lambda x, t: t * jnp.sum(x, axis=1), weight)
        np.testing.assert_allclose(guided(x, t), -x + (factors * t)[:, None])


def log_ratio(sde):
    """log d / (1 - d) of the best discriminator."""
    data, model = DATA.log_prob(sde), MODEL.log_prob(sde)
    return lambda x, t: data(x, t) - model(x, t)


@functools.cache
def unguided_divergence():
    """KL of the data to what the wrong model draws, in nats: 2.4."""
    return DATA.divergence_of(*heun_moments(MODEL.score_fn(EDM)))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["edm", "vp"])
def test_the_best_discriminator_turns_a_wrong_model_into_the_data(name):
    """Both scores are affine. Errors are below those of 20,000 draws: 4 standard deviations."""
    sde = {"edm": EDM, **SDES}[name]
    guided = guidance.discriminator(MODEL.score_fn(sde), sde, log_ratio(sde), 1.0, 1.0)
    mean, covariance = heun_moments(guided, 60, sde)
    variances, n = np.diag(DATA.covariance), 20_000
    error = np.sqrt((np.outer(variances, variances) + DATA.covariance**2) / n)
    np.testing.assert_array_less(np.abs(mean - DATA.mean), 4 * np.sqrt(variances / n))
    np.testing.assert_array_less(np.abs(covariance - DATA.covariance), 4 * error)
    assert DATA.divergence_of(mean, covariance) < 1e-3 * unguided_divergence()


@pytest.mark.thorough
def test_a_trained_discriminator_comes_near():
    """Measured: mean to 0.05, covariance to 6% of its largest entry, KL from 2.4 to 0.011."""
    guided = guidance.discriminator(MODEL.score_fn(EDM), EDM, trained(1000, 128), 1.0, 1.0)
    x = heun(guided, (4000, 3))
    np.testing.assert_allclose(x.mean(0), DATA.mean, atol=0.1)
    assert np.abs(np.cov(x.T) - DATA.covariance).max() < 0.1 * DATA.covariance.max()
    assert DATA.divergence(x) < 0.02 * unguided_divergence()


def trained(n_steps, n):
    """log d / (1 - d) of a small network, by cross-entropy over log-uniform noise levels."""
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, n_steps))

    def network(params, x, t):
        level = jnp.log(t)[:, None]
        hidden = jnp.concatenate([x / jnp.hypot(0.6, t[:, None]), level / 4, jnp.tanh(level)], 1)
        for matrix in params[:-1]:
            hidden = jax.nn.silu(hidden @ matrix[1:] + matrix[0])
        return (hidden @ params[-1])[:, 0]

    def loss(params, key):
        keys = jax.random.split(key, 4)
        x0 = jnp.concatenate([DATA.sample(keys[0], n), MODEL.sample(keys[1], n)])
        ends = np.log([0.04, EDM.t_max])
        t = jnp.exp(jax.random.uniform(keys[2], (2 * n,), minval=ends[0], maxval=ends[1]))
        logits = network(params, x0 + t[:, None] * jax.random.normal(keys[3], x0.shape), t)
        real = jnp.arange(2 * n) < n
        return optax.sigmoid_binary_cross_entropy(logits, real.astype(jnp.float32)).mean()

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    shapes = (6, 64), (65, 64), (64, 1)
    params = [0.3 * jax.random.normal(jax.random.key(s[0]), s) for s in shapes]
    keys = jax.random.split(jax.random.key(0), n_steps)
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(
        (params, optimizer.init(params))
    )
    return functools.partial(network, params)


def test_a_discriminator_guides_each_sample_within_the_published_levels():
    """VP's at t of 0.01 and 1: 0.0447 and 152."""
    vp, ratio = sde_lib.VP(), lambda x, t: jnp.sum(x, axis=1)
    x, t = jnp.ones((4, 2)), jnp.array([0.009, 0.0101, 0.5, 1.0])
    first, later = guidance.discriminator(lambda x, t: -x, vp, ratio, 2.0)
    np.testing.assert_array_equal(first(x, t), [[-1, -1], [1, 1], [1, 1], [1, 1]])
    np.testing.assert_array_equal(later(x, t), -x)
    level = jnp.array([0.0446, 0.0448, 152.0, 152.4])
    first, _ = guidance.discriminator(lambda x, t: -x, EDM, ratio)
    np.testing.assert_array_equal(first(x, level), [[-1, -1], [0, 0], [0, 0], [-1, -1]])
    narrow = guidance.discriminator(lambda x, t: -x, EDM, ratio, 1.0, 3.0, 0.1, 1.0)
    for score_fn, weight in zip(narrow, (1, 3), strict=True):
        inside = score_fn(x, jnp.array([0.09, 0.11, 0.99, 1.01]))
        np.testing.assert_array_equal(inside[:, 0], [-1, weight - 1, weight - 1, -1])


def test_boosting_doubles_the_gradient_of_fakes():
    x, t = jnp.array([[1.0], [-1.0]]), jnp.full(2, 0.5)
    boosted = guidance.discriminator(
        lambda x, t: 0 * x, EDM, lambda x, t: 3 * x[:, 0], 1.0, 1.0, boost=True
    )
    np.testing.assert_array_equal(boosted(x, t), [[3.0], [6.0]])


def test_classifier_free_guidance_is_classifier_guidance_by_bayes_rule():
    sde, label = SDES["vp"], jnp.array([0, 1, 0, 1])
    x, t = states(sde)
    guided = jax.jit(guidance.classifier_free(of_class(sde), label, 2.5))(x, t)
    for k in (0, 1):
        exact = guidance.gradient(Mixture().score_fn(sde), classifier(sde, k), 2.5)
        np.testing.assert_allclose(guided[k::2], jax.jit(exact)(x, t)[k::2], rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
def test_two_terms_draw_from_the_gaussian_beyond_that_of_the_condition():
    """Between scores of Gaussians of one covariance, w goes linearly from mean to mean."""
    sde, mixture, n, w = SDES["vp"], Mixture(), 4000, 1.5
    label = jnp.zeros(n, int)
    guided = guidance.classifier_free(of_class(sde), label, w, negative=1)
    x = heun(guided, (n, 2), sde=sde)
    mean = w * np.array(mixture.means[0]) + (1 - w) * np.array(mixture.means[1])
    np.testing.assert_allclose(x.mean(0), mean, atol=4 * mixture.std / np.sqrt(n))
    np.testing.assert_allclose(x.std(0), mixture.std, rtol=0.05)


@pytest.mark.parametrize("w", [0.0, 1.0, 2.5, jnp.float32(1), lambda t: 2 * t])
def test_every_form_is_its_formula_in_one_call(w):
    """Conditions are a class and a confidence; without one they are -1 and 0."""
    x, t = states(SDES["vp"])
    condition, null = (jnp.arange(4), jnp.linspace(0.1, 1, 4)), (-1, 0.0)
    negative = jnp.full(4, 7), jnp.full(4, 0.5)
    sizes = []

    def score(x, t, condition):
        label, confidence = condition
        sizes.append(len(x))
        return -x * (label + confidence * t)[:, None]

    def bare(condition):
        label, confidence = (jnp.broadcast_to(leaf, 4) for leaf in condition)
        return -x * (label + confidence * t)[:, None]

    s_y, s_u, s_neg = bare(condition), bare(null), bare(negative)
    v = jnp.broadcast_to(w(t) if callable(w) else w, 4)[:, None]
    static = isinstance(w, float) and w in (0, 1)
    for options, expected, size in (
        ({"null": null}, s_u + v * (s_y - s_u), 4 if static else 8),
        ({"negative": negative}, s_neg + v * (s_y - s_neg), 4 if static else 8),
        (
            {"null": null, "negative": negative},
            s_u + v * (s_y - s_u) - v * (s_neg - s_u),
            4 if w == 0 else 12,
        ),
    ):
        sizes.clear()
        guided = guidance.classifier_free(score, condition, w, **options)
        np.testing.assert_allclose(guided(x, t), expected, rtol=1e-5, atol=1e-5)
        assert sizes == [size]


@pytest.mark.parametrize("w", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("options", [{}, {"negative": 0}], ids=str)
def test_the_first_channels_are_guided_and_the_variance_is_the_conditional_one(w, options):
    """As DiT samples: the other channels keep the score of the class."""
    x, t = states(SDES["vp"])
    label = jnp.arange(4)

    def score(x, t, label):
        return -x * (label + 2.0)[:, None], jnp.broadcast_to(label[:, None], x.shape) / 4

    whole, _ = guidance.classifier_free(score, label, w, -1, **options)(x, t)
    some, variance = guidance.classifier_free(score, label, w, -1, **options, channels=1)(x, t)
    np.testing.assert_allclose(some[:, :1], whole[:, :1], rtol=1e-6)
    np.testing.assert_allclose(some[:, 1:], score(x, t, label)[0][:, 1:], rtol=1e-6)
    np.testing.assert_array_equal(variance, score(x, t, label)[1])


def test_channels_that_are_not_there_are_refused():
    x, t = states(SDES["vp"])
    with pytest.raises(ValueError, match="channels"):
        guidance.classifier_free(of_class(SDES["vp"]), jnp.arange(4), 2.0, channels=0)
    guided = guidance.classifier_free(of_class(SDES["vp"]), jnp.arange(4), 2.0, channels=3)
    with pytest.raises(ValueError, match="channels is 3, but x has 2"):
        guided(x, t)


@pytest.mark.thorough
def test_epsilon_scaling_mends_a_model_that_predicts_too_much_noise():
    data, b = Gaussian().score_fn(EDM), guidance.linear(0.005, 1.02)

    def wrong(x, t):
        return (0.005 * t + 1.02)[:, None] * data(x, t)

    x, exact = (heun(s, (64, 2)) for s in (guidance.epsilon_scaling(wrong, b), data))
    np.testing.assert_allclose(x, exact, rtol=1e-4, atol=1e-4)
    assert np.abs(heun(wrong, (64, 2)) - exact).max() > 0.05


@pytest.mark.thorough
@pytest.mark.parametrize("denoise", [True, False])
def test_the_number_of_a_step_counts_the_sampler_s_levels(denoise):
    sde = SDES["vp"]
    levels = samplers.Heun(n_steps=5, denoise=denoise).own_levels(sde)
    number = guidance.step_number(sde, levels)
    begun = levels[:5]
    np.testing.assert_allclose(number(sde.inverse_noise_level(begun)), np.arange(5), atol=1e-3)
    between = np.sqrt(begun[1] * begun[2])
    assert number(sde.inverse_noise_level(jnp.array([between])))[0] == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize("name", ["ve", "vp", "edm", "flow"])
def test_time_shift_takes_the_noise_of_the_time_that_fits_the_variance(name):
    """Samples with the standard deviation sigma(tau) at t; beyond the window, its end."""
    sde = {"edm": EDM, "flow": sde_lib.LinearFlow(), **SDES}[name]
    t = jnp.array([0.3, 0.3, 0.3, 0.3]) * sde.t_max
    looks = jnp.array([0.33, 0.28, 0.6, 0.05]) * sde.t_max
    tau = jnp.array([0.33, 0.28, 0.35, 0.25]) * sde.t_max
    x = expand(sde.sigma(looks), jnp.zeros((4, 2))) * jnp.array([1.0, -1.0]) + 5.0

    def score(x, t):
        return expand(-jnp.cos(t) / sde.sigma(t), x) * x

    shifted = guidance.time_shift(score, sde, 0.1 * sde.t_max, 0.2 * sde.t_max)
    noise = -expand(sde.sigma(t), x) * shifted(x, t)
    np.testing.assert_allclose(noise, jnp.cos(tau)[:, None] * x, rtol=2e-4, atol=2e-4)
    early = 0.2 * t
    np.testing.assert_array_equal(shifted(x, early), score(x, early))


def test_an_energy_s_guide_gives_one_number_a_sample():
    plain = sde_lib.ScoreAndEnergy.of(lambda x, t: -jnp.sum(x**2, axis=1))
    guided = guidance.gradient(plain, lambda x, t: x[:, :1], lambda t: jnp.ones_like(t))
    with pytest.raises(ValueError, match=r"log_prob returned \(3, 1\) .* one number a sample"):
        guided(jnp.ones((3, 2)), jnp.full(3, 0.5))


@pytest.mark.thorough
def test_guidance_without_effect_is_the_plain_sampler_bit_for_bit():
    def score(x, t, label):
        return -jnp.sin(x - label[:, None]) / (1 + t[:, None] ** 2)

    def log_prob(x, t):
        return jnp.sum(jnp.cos(x), axis=1) / (1 + t)

    label, zero, one = jnp.arange(8) % 2, jnp.float32(0), jnp.float32(1)
    given, plain = (functools.partial(score, label=y) for y in (label, jnp.full(8, -1)))
    assert guidance.gradient(plain, log_prob, 0) is plain
    assert guidance.discriminator(plain, EDM, log_prob, 0.0, 0.0) is plain
    assert guidance.discriminator(plain, EDM, log_prob, 1.0)[1] is plain
    assert guidance.epsilon_scaling(plain, 1.0) is plain
    assert guidance.epsilon_scaling(plain, guidance.linear(0.0, 1.0)) is plain
    assert guidance.time_shift(plain, EDM, 0.0, 1.0) is plain
    exact, exact_given = heun(plain, (8, 2), 6), heun(given, (8, 2), 6)
    for same in (
        guidance.gradient(plain, log_prob, zero),
        guidance.gradient(plain, log_prob, lambda t: 0 * t),
        guidance.epsilon_scaling(plain, one),
        guidance.classifier_free(score, label, 0.0),
    ):
        np.testing.assert_array_equal(heun(same, (8, 2), 6), exact)
    for weight in (1.0, one):
        same = guidance.classifier_free(score, label, weight)
        np.testing.assert_array_equal(heun(same, (8, 2), 6), exact_given)


def transforms(n):
    """Every transform, for a batch of n."""
    score, plain = of_class(EDM), Mixture().score_fn(EDM)
    label = jnp.arange(n) % 2
    falling = guidance.SCHEDULES["interval"](2.0, EDM, low=0.1, high=10.0, outside=0.0)
    boosted = guidance.discriminator(plain, EDM, classifier(EDM, 1), 1.5, 1.5, boost=True)
    return {
        "gradient": guidance.gradient(plain, classifier(EDM, 0), falling),
        "discriminator": boosted,
        "classifier_free": guidance.classifier_free(score, label, falling),
        "negative": guidance.classifier_free(score, label, 2.0, -1, 1 - label),
        "epsilon_scaling": guidance.epsilon_scaling(plain, guidance.linear(0.01, 1.01)),
        "time_shift": guidance.time_shift(plain, EDM, 5.0, 1.0),
    }


@pytest.mark.parametrize("name", transforms(1))
def test_a_sample_does_not_depend_on_the_others(name):
    t = jnp.array([0.01, 0.5, 9.0, 60.0, 0.03, 30.0])
    x = t[:, None] * jax.random.normal(jax.random.key(0), (6, 2))
    together = jax.jit(transforms(6)[name])(x, t)
    program = jax.jit(transforms(1)[name])
    for i in (0, 2, 4):  # whose class is 0, as that of a batch's first
        alone = program(x[i : i + 1], t[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-6, atol=1e-7)


def test_a_discriminator_is_evaluated_in_first_stages_within_its_levels_alone():
    """15 of the 17 steps of the published grid begin above 0.0447; x_0 is below."""
    runs = []

    def ratio(x, t):
        jax.debug.callback(lambda: runs.append(1))
        return jnp.sum(x, axis=1)

    heun(guidance.discriminator(lambda x, t: -x / 100**2, EDM, ratio), (4, 2), 18)
    jax.effects_barrier()
    levels = samplers.Heun(18).levels(EDM, 80.0, 0.002)
    assert len(runs) == (levels > 0.0447).sum() == 15


@pytest.mark.thorough
def test_guidance_costs_what_its_parts_do():
    """Floating-point operations of the compiled programs agree to 5%."""
    shape, width = (8, 32), 256
    matrix, other = jax.random.normal(jax.random.key(0), (2, shape[1], width))

    def network(x, t, label):
        return jnp.tanh(x @ matrix + label[:, None]) @ matrix.T

    def ratio(x, t):
        return jnp.sum(jnp.tanh(x @ other), axis=1)

    def cost(fn, *arrays):
        return jax.jit(fn).lower(*arrays).compile().cost_analysis()["flops"]

    def step(score_fn):
        keys = jax.random.split(jax.random.key(0), shape[0])
        move, w = samplers.Heun(4).mover(EDM, score_fn, keys, np.array([9.0, 1.0]), shape)
        return cost(lambda y: move(jnp.int32(0), y, jnp.zeros(0), w)[0], x)

    x, t, label = jnp.ones(shape), jnp.ones(8), jnp.ones(8)
    bare, double = (
        cost(network, *(jnp.concatenate([a] * n) for a in (x, t, label))) for n in (1, 2)
    )
    free = guidance.classifier_free(network, label, 2.0, null=-1.0)
    assert cost(free, x, t) == pytest.approx(double, rel=0.05)
    plain = functools.partial(network, label=label)
    first, later = (
        guidance.discriminator(plain, EDM, ratio, weight, 1.0 - weight) for weight in (1.0, 0.5)
    )
    both = cost(jax.value_and_grad(lambda x: ratio(x, t).sum()), x)
    assert step(plain) == pytest.approx(2 * bare, rel=0.05)
    assert step(first) == pytest.approx(2 * bare + both, rel=0.05)
    assert step(later) == pytest.approx(2 * bare + 2 * both, rel=0.05)


def test_mistakes_are_refused():
    def score(x, t, *_):
        return -x

    def ratio(x, t):
        return x

    sde, classes = SDES["vp"], jnp.zeros(4, int)
    guided = guidance.gradient(score, ratio)
    with pytest.raises(ValueError, match=r"log_prob returned \(4, 2\) .* one number a sample"):
        samplers.EulerMaruyama(10)(jax.random.key(0), sde, guided, (4, 2))
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"weight is {weight}: it must be at least 0, and fi"):
            guidance.gradient(score, ratio, weight)
        with pytest.raises(ValueError, match=f"later_weight is {weight}"):
            guidance.discriminator(score, sde, ratio, 1.0, weight)
        with pytest.raises(ValueError, match=f"weight is {weight}"):
            guidance.classifier_free(score, classes, weight)
        with pytest.raises(ValueError, match=f"window is {weight}"):
            guidance.time_shift(score, sde, weight, 0.1)
        with pytest.raises(ValueError, match=f"b is {weight}: it must be positive, and finite"):
            guidance.epsilon_scaling(score, weight)
    with pytest.raises(ValueError, match="b is 0"):
        guidance.epsilon_scaling(score, 0)
    with pytest.raises(ValueError, match="k is nan: it must be finite"):
        guidance.linear(np.nan, 1.0)
    with pytest.raises(ValueError, match="sigma_min is 2: it must be below sigma_max, 1"):
        guidance.discriminator(score, sde, ratio, sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(ValueError, match="classifier-free guidance needs a condition"):
        guidance.classifier_free(score, None, 2.0)
    with pytest.raises(ValueError, match=r"null is None, .* but the condition is not of integers"):
        guidance.classifier_free(score, (classes, jnp.ones(4)), 2.0)
    for condition in (jnp.int32(0), jnp.zeros(3, int)):
        guided = guidance.classifier_free(score, condition, 2.0)
        with pytest.raises(ValueError, match=r"condition has the shape .*, x \(4, 2\)"):
            guided(jnp.zeros((4, 2)), jnp.zeros(4))


def test_a_gradient_that_is_not_finite_is_ignored_at_weight_0():
    """For one sample of a batch as for all of it."""

    def log_prob(x, t):
        return jnp.sum(jnp.sqrt(x), axis=1)  # its gradient at 0 is infinite

    guided = guidance.gradient(lambda x, t: -x, log_prob, lambda t: jnp.where(t > 0.5, 1.0, 0.0))
    x = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    np.testing.assert_array_equal(guided(x, jnp.array([0.2, 0.8])), [[0, 0], [-0.5, -0.5]])


def test_a_time_is_shifted_within_its_window_near_the_data_too():
    sde, t = sde_lib.VP(), jnp.array([1e-4, 5e-4])
    seen = []

    def score_fn(x, t):
        seen.append(t)
        return -x

    guidance.time_shift(score_fn, sde, window=1e-5, cutoff=0.0)(jnp.ones((2, 3)), t)
    np.testing.assert_allclose(seen[0], t, atol=0.51e-5)


@pytest.mark.parametrize("name", ["vp", "ve", "subvp"])
def test_clipping_is_of_the_estimate_of_the_data(name):
    sde = SDES[name]
    x, t = states(sde)
    plain = lambda x, t: -0.3 * x  # noqa: E731
    score = guidance.clip(plain, sde, 0.5)(x, t)
    estimate = sde.denoise(x, t, plain(x, t))
    assert (np.abs(estimate) > 0.5).any()
    np.testing.assert_allclose(
        sde.denoise(x, t, score), np.clip(estimate, -0.5, 0.5), rtol=1e-3, atol=1e-3
    )
    inside = np.abs(estimate) <= 0.5
    np.testing.assert_array_equal(score[inside], plain(x, t)[inside])


@pytest.mark.parametrize(
    "guide",
    [
        lambda fn: guidance.clip(fn, SDES["vp"], 0.5),
        lambda fn: guidance.epsilon_scaling(fn, guidance.linear(0.1, 1.01)),
        lambda fn: guidance.gradient(fn, classifier(SDES["vp"], 1), 2.0),
        lambda fn: guidance.gradient(fn, classifier(SDES["vp"], 1), lambda t: t),
        lambda fn: guidance.discriminator(fn, SDES["vp"], classifier(SDES["vp"], 0), 2.0, 2.0),
        lambda fn: guidance.discriminator(fn, SDES["vp"], classifier(SDES["vp"], 0), 2.0)[0],
        lambda fn: guidance.discriminator(fn, SDES["vp"], classifier(SDES["vp"], 0), 2.0)[1],
    ],
)
def test_guidance_is_of_the_score_and_keeps_a_learned_variance(guide):
    x, t = states(SDES["vp"])
    guided = guide(sde_lib.ScoreAndVariance(lambda x, t: (-9 * x, 3 * x)))
    assert isinstance(guided, sde_lib.ScoreAndVariance)
    score, v = guided.both(x, t)
    np.testing.assert_array_equal(v, 3 * x)
    np.testing.assert_array_equal(score, guide(lambda x, t: -9 * x)(x, t))


def test_a_shifted_time_is_that_of_the_variance_too():
    x, t = states(SDES["vp"])
    shift = functools.partial(guidance.time_shift, sde=SDES["vp"], window=0.1, cutoff=0.0)
    score, v = shift(sde_lib.ScoreAndVariance(lambda x, t: (-x, t))).both(x, t)
    assert (v != t).any()
    np.testing.assert_array_equal(score, shift(lambda x, t: -x)(x, t))


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0])
def test_the_variance_is_that_of_the_conditional_branch_at_any_weight(weight):
    """As in DiT's forward_with_cfg; of weight 0 the score is the unconditional one."""
    both = lambda x, t, label: (x * label[:, None], 0 * x + label[:, None])  # noqa: E731
    guided = guidance.classifier_free(both, jnp.array([3, 5]), weight)
    x = jnp.ones((2, 4))
    score, v = guided(x, jnp.ones(2))
    np.testing.assert_array_equal(v[:, 0], [3, 5])
    np.testing.assert_allclose(score[:, 0], weight * np.array([3, 5]) - (1 - weight))
    plain = guidance.classifier_free(lambda *args: both(*args)[0], jnp.array([3, 5]), weight)
    np.testing.assert_array_equal(score, plain(x, jnp.ones(2)))


def test_a_limit_is_positive():
    with pytest.raises(ValueError, match=r"limit is 0\.0: it must be positive"):
        guidance.clip(lambda x, t: x, SDES["vp"], 0.0)


@pytest.mark.thorough
def test_a_classifier_and_epsilon_scaling_guide_an_energy_too():
    """The energy is the sum, or the quotient, and its gradient is the score as without it."""
    mixture = sde_lib.GaussianMixture((0.3, 0.7), ((-1.0, 0.5), (1.5, 0.0)), 0.4)
    pair, x, t = mixture.score_and_energy(EDM), jnp.array([[0.3, -0.2], [1.0, 2.0]]), jnp.ones(2)

    def log_prob(x, t):
        return -jnp.sum((x - 1) ** 2, axis=1) / (1 + t)

    weighted = lambda t: 2 * t  # noqa: E731
    for guide, energy in (
        (
            lambda fn: guidance.gradient(fn, log_prob, weighted),
            pair.both(x, t)[1] + 2 * log_prob(x, t),
        ),
        (lambda fn: guidance.epsilon_scaling(fn, 1.25), pair.both(x, t)[1] / 1.25),
        (
            lambda fn: guidance.discriminator(fn, EDM, log_prob, 2.0, 2.0),
            pair.both(x, t)[1] + 2 * log_prob(x, t),
        ),
    ):
        guided = guide(pair)
        assert isinstance(guided, sde_lib.ScoreAndEnergy)
        score, log_density = guided.both(x, t)
        np.testing.assert_allclose(log_density, energy, rtol=1e-5)
        np.testing.assert_allclose(score, guide(mixture.score_fn(EDM))(x, t), rtol=1e-5, atol=1e-6)
        gradient = jax.grad(lambda x, both=guided.both: both(x, t)[1].sum())(x)
        np.testing.assert_allclose(score, gradient, rtol=1e-4, atol=1e-5)
    assert not isinstance(guidance.clip(pair, EDM, 1.0), sde_lib.ScoreAndEnergy)
