from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.ddpm import DDPM
from models.layers import level_sigma
from models.ncsnpp import NCSNpp
from models.ncsnv2 import NCSNv2
from models.wideresnet import WideResNet

X = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LABELS = jnp.array([0.5, 3.0])


class OneStage(NCSNv2):
    stages = NCSNv2.stages[:1]


NETWORKS = {
    "ncsnpp": NCSNpp(nf=8, ch_mult=(1,), num_res_blocks=0, dropout=0.5),
    "ddpm": DDPM(nf=8, ch_mult=(1, 1), num_res_blocks=1),
    "ncsnv2": OneStage(nf=4, scale_by_sigma=False),
    "wideresnet": WideResNet(blocks_per_group=1, channel_multiplier=1),
}


def test_levels_run_from_sigma_max_to_sigma_min_and_are_geometric_in_between():
    sigma = level_sigma(jnp.array([0.0, 4.5, 9.0]), 0.01, 1.0, num_scales=10)
    np.testing.assert_allclose(sigma, [1.0, 0.1, 0.01], rtol=1e-6)


def test_one_level_is_too_few():
    with pytest.raises(ValueError, match=r"config\.model\.num_scales is 1: it must be at least 2"):
        level_sigma(jnp.zeros(1), 0.01, 1.0, num_scales=1)


def forward(network, remat):
    """(params, x) -> the output in training."""
    network, rngs = network.clone(remat=remat), {"dropout": jax.random.key(1)}
    return lambda params, x: network.apply({"params": params}, x, LABELS, train=True, rngs=rngs)


@pytest.mark.parametrize("name", NETWORKS)
def test_remat_keeps_the_parameters_and_few_activations(name):
    """Measured: a fourth to a seventh. Counted before XLA, whose CPU compiler gains nothing."""
    network = NETWORKS[name]
    params = weights.shapes(network, X, LABELS)
    assert weights.shapes(network.clone(remat=True), X, LABELS) == params

    def kept(remat):
        backward = jax.eval_shape(lambda p: jax.vjp(forward(network, remat), p, X)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward) if leaf.shape[:1] == X.shape[:1])

    assert kept(True) < kept(False) / 3


@pytest.mark.parametrize("name", ["ncsnpp", "ncsnv2"])
def test_remat_changes_no_output_and_no_derivative(name):
    """By dropout, noise levels, gradients, and the tangents that a likelihood is made of."""
    network = NETWORKS[name]

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # runs but once
    def derivatives(params):
        def run(remat):
            apply = forward(network, remat)
            output, vjp = jax.vjp(lambda p: apply(p, X), params)
            _, tangent = jax.jvp(lambda x: apply(params, x), (X,), (X[::-1],))
            return output, tangent, vjp(output)

        return run(remat=True), run(remat=False)

    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, *derivatives(weights.random(network, X, LABELS)))
