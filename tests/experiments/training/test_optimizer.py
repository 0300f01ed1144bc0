from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.training.optimizer import Adam
from experiments.training.schedules import InverseSqrt


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


def test_the_rate_falls_as_the_inverse_square_root_after_its_ramp():
    """Karras et al. 2024, Equation 67, times the linear ramp."""
    adam, steps = Adam(lr=2.0, warmup=2, schedule=InverseSqrt(4)), (0, 1, 4, 16, 400)
    expected = [0, 1, 2, 1, 0.2]
    np.testing.assert_allclose([adam.rate(step) for step in steps], expected, rtol=1e-6)
    plain = Adam(lr=2.0, warmup=0, schedule=InverseSqrt(1))
    np.testing.assert_allclose(updates(plain, [1.0] * 4)[1:], [-2, -(2**0.5), -2 / 3**0.5], 1e-4)
    with pytest.raises(ValueError, match=r"config\.optim\.decay_start is 0"):
        InverseSqrt(0)


def on_circle(params):
    """Weights of norm 1; other parameters stay as they are."""
    return {"w": params["w"] / jnp.linalg.norm(params["w"]), "gain": params["gain"]}


def test_parameters_are_projected_after_each_step():
    params = {"w": jnp.array([0.6, 0.8]), "gain": jnp.ones(())}
    grads = {"w": jnp.array([0.8, 0.6]), "gain": jnp.ones(())}
    adam = Adam(0.1, warmup=0, grad_clip=0.0)
    plain, bound = adam.create(), adam.create(on_circle)
    state = bound.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(plain.init(params))
    free = optax.apply_updates(params, plain.update(grads, state, params)[0])
    for _ in range(3):
        update, state = bound.update(grads, state, params)
        params = optax.apply_updates(params, update)
        if free is not None:
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), params, on_circle(free))
            free = None
    np.testing.assert_allclose(jnp.linalg.norm(params["w"]), 1, rtol=1e-6)
    np.testing.assert_allclose(params["gain"], 0.7, rtol=1e-4)


def test_frozen_parameters_are_not_projected():
    params = {"w": jnp.array([3.0, 4.0]), "gain": jnp.ones(())}
    project = lambda params: jax.tree.map(lambda leaf: 0.5 * leaf, params)  # noqa: E731
    frozen = Adam(0.1, warmup=0, freeze=("w",)).create(project)
    update, _ = frozen.update(params, frozen.init(params), params)
    after = optax.apply_updates(params, update)
    np.testing.assert_array_equal(after["w"], params["w"])
    np.testing.assert_allclose(after["gain"], 0.5 * 0.9, rtol=1e-5)


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


PARAMS = {"Conv_0": {"kernel": 1.0, "bias": 2.0}, "Block_0": {"Conv_0": {"kernel": 3.0}}}
GRADS = {"Conv_0": {"kernel": 30.0, "bias": 4.0}, "Block_0": {"Conv_0": {"kernel": 3.0}}}


@pytest.mark.parametrize(
    ("freeze", "left"),
    [
        (("Conv_0/.*",), {"Block_0"}),
        (("Conv_0/kernel", "Block_0.*"), {"Conv_0/bias"}),
        ((".*/kernel",), {"Conv_0/bias"}),
    ],
)
def test_frozen_parameters_stay_and_have_no_moments_and_no_norm(freeze, left):
    """The others are trained as if the frozen ones did not exist: clipped by their own norm."""
    options = {"warmup": 0, "grad_clip": 0.5, "eps": 1.0, "weight_decay": 0.1}
    params, grads = (jax.tree.map(jnp.asarray, tree) for tree in (PARAMS, GRADS))
    adam = Adam(0.1, **options, freeze=freeze)
    frozen, state = adam.are_frozen(params), adam.create().init(params)
    updates, after = adam.create().update(grads, state, params)
    both = jax.tree.leaves(frozen), jax.tree.leaves(params), jax.tree.leaves(grads)
    alone = [(value, grad) for off, value, grad in zip(*both, strict=True) if not off]
    values, slopes = ([pair[k] for pair in alone] for k in (0, 1))
    expected, _ = (
        Adam(0.1, **options)
        .create()
        .update(slopes, Adam(0.1, **options).create().init(values), values)
    )
    zeros = [update for off, update in zip(both[0], jax.tree.leaves(updates), strict=True) if off]
    assert zeros == [0.0] * (3 - len(values))
    assert [
        update for off, update in zip(both[0], jax.tree.leaves(updates), strict=True) if not off
    ] == expected
    n_moments = sum(leaf.size for leaf in jax.tree.leaves(after)) - 1  # and a counter
    assert n_moments == 2 * len(values)
    assert len(values) == len(left)
    assert optax.tree.norm(adam.of_trained(grads)) == optax.tree.norm(slopes)


def test_parts_with_an_optimizer_each_can_be_frozen_in_part():
    """As in tasks that have a learned schedule or a discriminator beside the network."""
    adam = Adam(0.1, warmup=0, weight_decay=0.1, freeze=("Conv_0/.*", "Block_0/.*/scale"))
    parts = optax.partition(
        {False: adam.create(), True: adam.create()}, {"Conv_0": False, "Block_0": True}
    )
    params = {"Conv_0": {"kernel": jnp.ones(2)}, "Block_0": {"a": {"scale": jnp.ones(1)}}}
    params["Block_0"]["a"]["bias"] = jnp.ones(1)
    updates, _ = parts.update(params, parts.init(params), params)
    moved = jax.tree.map(lambda update: bool(update.any()), updates)
    assert moved == {"Conv_0": {"kernel": False}, "Block_0": {"a": {"scale": False, "bias": True}}}


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("Conv_0",), r"has 'Conv_0', which matches the whole name of no .* Conv_0/bias, Conv_0/k"),
        (("Conv_0/bias", "Conv_1/.*"), r"has 'Conv_1/\.\*', .* there are .*Conv_0/"),
        ((".*",), r"freeze is \('\.\*',\), which freezes all parameters"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(freeze, message):
    with pytest.raises(ValueError, match=message):
        Adam(freeze=freeze).check_freeze(PARAMS)
    Adam(freeze=("Conv_0/.*",)).check_freeze(PARAMS)
    Adam().check_freeze(PARAMS)


@pytest.mark.parametrize("pattern", ["Conv_(", 3])
def test_what_is_no_regular_expression_is_refused(pattern):
    with pytest.raises(ValueError, match=r"config\.optim\.freeze has .* no regular expression"):
        Adam(freeze=(pattern,))
