import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training.optimizer import Adam


def updates(adam, grads):
    """The updates of one weight at 1 by some gradients in turn."""
    optimizer, weight, made = adam.create(), jnp.ones(1), []
    state = optimizer.init(weight)
    for grad in grads:
        update, state = optimizer.update(jnp.array([grad]), state, weight)
        made.append(float(update[0]))
    return made


def test_updates_are_those_of_adam():
    """Kingma & Ba 2015, Algorithm 1, with decoupled weight decay."""
    grads = (0.5, -0.2, 0.1)
    m = v = 0.0
    expected = []
    for k, grad in enumerate(grads, 1):
        m, v = 0.8 * m + 0.2 * grad, 0.9 * v + 0.1 * grad**2
        step = (m / (1 - 0.8**k)) / (np.sqrt(v / (1 - 0.9**k)) + 1e-3)
        expected.append(-0.1 * (step + 0.3 * 1.0))
    adam = Adam(0.1, 0.8, 0.9, 1e-3, weight_decay=0.3, warmup=0, grad_clip=0.0)
    np.testing.assert_allclose(updates(adam, grads), expected, rtol=1e-5)


def test_the_rate_rises_over_the_warm_up():
    adam = Adam(lr=2.0, warmup=4)
    assert [float(adam.rate(step)) for step in (0, 1, 4, 9)] == [0.0, 0.5, 2.0, 2.0]
    assert float(Adam(lr=2.0, warmup=0).rate(0)) == 2.0
    np.testing.assert_allclose(updates(adam, [1.0] * 6), [0, -0.5, -1, -1.5, -2, -2], rtol=1e-4)


def test_the_gradient_is_clipped_by_its_norm():
    adam = Adam(lr=1.0, eps=1.0, warmup=0, grad_clip=0.5)
    np.testing.assert_allclose(updates(adam, [1e4])[0], -0.5 / 1.5, rtol=1e-5)
    np.testing.assert_allclose(updates(adam, [0.3])[0], -0.3 / 1.3, rtol=1e-5)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf"), 1e39, "1e-3", None])
def test_a_learning_rate_that_is_not_positive_is_refused(lr):
    with pytest.raises(ValueError, match=r"config\.optim\.lr is"):
        Adam(lr=lr)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("warmup", (-5, 1.5, True, None)),
        ("beta1", (1.0, 1.5, -0.1, float("nan"))),
        ("beta2", (1, 1 - 1e-12, -0.1, "0.9")),
        ("eps", (-1e-8, float("nan"), float("inf"))),
        ("weight_decay", (-0.1, float("inf"))),
        ("grad_clip", (float("nan"), float("inf"), "1")),
    ],
)
def test_numbers_out_of_range_are_refused(field, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"config\.optim\.{field} is {value!r}: it must be"):
            Adam(**{field: value})
