import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Mixture

import samplers
from samplers import guidance
from sde_lib.batch import expand


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


@pytest.mark.parametrize("name", SDES)
def test_a_classifier_turns_the_score_of_all_into_that_of_its_class(name):
    sde, mixture = SDES[name], Mixture()
    t = jnp.array([0.01, 0.2, 0.5, 1.0])
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    x = expand(sigma, jnp.zeros((4, 2))) * jax.random.normal(jax.random.key(0), (4, 2))
    guided = guidance.gradient(mixture.score_fn(sde), classifier(sde, 0))
    variance = (alpha * mixture.std) ** 2 + sigma**2
    exact = -(x - alpha[:, None] * jnp.array(mixture.means[0])) / variance[:, None]
    np.testing.assert_allclose(guided(x, t), exact, rtol=1e-4, atol=1e-4)


def test_a_sampler_given_the_guided_score_draws_that_class():
    sde, mixture, n = SDES["vp"], Mixture(), 4000
    score_fn = guidance.gradient(mixture.score_fn(sde), classifier(sde, 0))
    sampler = samplers.ProbabilityFlow(1e-4, 1e-4)
    x = jax.jit(lambda key: sampler(key, sde, score_fn, (n, 2)).x)(jax.random.key(0))
    np.testing.assert_allclose(x.mean(0), mixture.means[0], atol=4 * mixture.std / np.sqrt(n))
    np.testing.assert_allclose(x.std(0), mixture.std, rtol=0.05)


def test_the_weight_is_a_number_or_a_function_of_time():
    x, t = jnp.ones((3, 2)), jnp.array([0.1, 0.5, 1.0])
    for weight, factors in ((3.0, jnp.full(3, 3.0)), (lambda t: 1 + t, 1 + t)):
        guided = guidance.gradient(lambda x, t: -x, lambda x, t: t * jnp.sum(x, axis=1), weight)
        np.testing.assert_allclose(guided(x, t), -x + (factors * t)[:, None])


def test_a_log_prob_of_another_shape_is_refused():
    guided = guidance.gradient(lambda x, t: -x, lambda x, t: x)
    with pytest.raises(ValueError, match=r"log_prob returned \(4, 2\) .* one number a sample"):
        samplers.EulerMaruyama(10)(jax.random.key(0), SDES["vp"], guided, (4, 2))
