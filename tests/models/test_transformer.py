import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.transformer import TokenAttention, layer_norm

RANDOM = np.random.RandomState(0)
X = RANDOM.standard_normal((2, 3, 8)).astype("f4")
CONTEXT = RANDOM.standard_normal((2, 5, 6)).astype("f4")
MASK = np.array([[True, False, True, True, False], [True] * 5])


@pytest.mark.parametrize("across", [True, False])
def test_attention_is_that_of_the_paper(across):
    given = (CONTEXT, MASK) if across else ()
    attention = TokenAttention(heads=2)
    values = weights.random(attention, X, *given)
    params = jax.tree.map(np.float64, values)

    def linear(x, name):
        return x @ params[name]["kernel"] + params[name]["bias"]

    context, mask = given if across else (X, np.ones((2, 3), bool))
    q, k, v = linear(X, "query"), linear(context, "key"), linear(context, "value")
    heads = []
    for features in (slice(0, 4), slice(4, 8)):
        logits = q[..., features] @ k[..., features].swapaxes(1, 2) / np.sqrt(4)
        weight = np.exp(logits) * mask[:, None]
        heads.append(weight / weight.sum(-1, keepdims=True) @ v[..., features])
    expected = linear(np.concatenate(heads, -1), "out")
    output = attention.apply({"params": values}, X, *given)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, *args):
        return layer_norm(*args)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normalisation_and_modulation_are_in_float32(dtype):
    """A large mean does not cost precision."""
    x, scale, shift = jnp.asarray(X + 100, dtype), X[:, :1], X[:, 1:2]
    y = np.asarray(x, np.float64)
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
    output = jnp.asarray(Layer().apply({}, x, scale, shift))
    assert output.dtype == dtype
    rounding = 1e-4 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(
        np.float64(output), y * (1 + scale) + shift, rtol=rounding, atol=1e-4
    )
