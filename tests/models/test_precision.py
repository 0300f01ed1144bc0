"""Networks that compute in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

import models
from configs import digits, points
from models import normalization
from models.adm import ADM
from models.ddpm import DDPM
from models.discriminator import Discriminator
from models.dit import DiT
from models.edm2 import EDM2
from models.ncsnpp import NCSNpp
from models.unet2d import UNet2D
from models.wideresnet import WideResNet

X = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
LABELS = jnp.array([0.5, 3.0])
SMALL = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}
UNET2D = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}
HALF = WideResNet(blocks_per_group=1, channel_multiplier=1, dtype="bfloat16")
NETWORKS = {  # and how many layers their embeddings and logits have
    "ncsnpp": (NCSNpp(**SMALL, dtype="bfloat16"), 2),
    "ncsnpp_ddpm": (
        NCSNpp(
            **SMALL,
            dtype="bfloat16",
            resblock_type="ddpm",
            progressive="residual",
            progressive_input="input_skip",
        ),
        2,
    ),
    "adm": (ADM(**SMALL, dtype="bfloat16"), 2),
    "edm2": (EDM2(**SMALL, dtype="bfloat16"), 1),
    "dit": (DiT(hidden_size=8, depth=2, num_heads=2, dtype="bfloat16"), 2),
    "ddpm": (DDPM(**SMALL, dtype="bfloat16"), 2),
    "unet2d": (UNet2D(**UNET2D, dtype="bfloat16"), 2),
    "wideresnet": (HALF, 3),
    "discriminator": (Discriminator(HALF), 3),
}


def equations(jaxpr):
    """All equations of a program and of the programs that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(inner):
                yield from equations(getattr(inner, "jaxpr", inner))


def is_program(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def types(jaxpr, name):
    """The dtypes of the operands of each equation whose name contains `name`, as sets."""
    found = [e for e in equations(jaxpr) if name in e.primitive.name]
    return [{str(x.aval.dtype) for x in e.invars} for e in found]


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_compute_in_bfloat16_and_nothing_else_does(name, monkeypatch):
    """Means of groups are no products here, as on a CPU; their values on others have a test."""
    monkeypatch.setattr(normalization, "_group_means", normalization.means_by_shape)
    network, layers = NETWORKS[name]
    params = weights.shapes(network, X, LABELS)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}

    def call(params, x):
        return network.apply({"params": params}, x, LABELS)

    program = jax.make_jaxpr(call)(params, X)
    assert [x.dtype for x in program.out_avals] == [jnp.float32]
    convolutions = types(program.jaxpr, "conv_") + types(program.jaxpr, "convolution")
    assert len(convolutions) >= 7 or name == "dit"
    assert all(given == {"bfloat16"} for given in convolutions)
    products = types(program.jaxpr, "dot_general")
    assert products.count({"float32"}) == layers < len(products)
    assert len(products) == layers + products.count({"bfloat16"})
    sums = types(program.jaxpr, "reduce_") + types(program.jaxpr, "exp")  # statistics, softmax
    assert sums
    assert all(given == {"float32"} for given in sums if given != {"int32"})


@pytest.mark.thorough
def test_outputs_and_gradients_are_those_of_float32_to_1_or_2_percent():
    """Measured: 0.3% and 1.3% of the root mean square. With remat, which changes neither."""
    network = NCSNpp(**SMALL | {"num_res_blocks": 0, "attn_resolutions": ()}, init_scale=1.0)
    params = weights.random(network, X, LABELS)

    @jax.jit
    def run(params):
        def of(**fields):
            def call(params):
                return network.clone(**fields).apply({"params": params}, X, LABELS)

            output, vjp = jax.vjp(call, params)
            return output, vjp(jnp.sin(X))[0]

        return of(), of(dtype="bfloat16", remat=True)

    (exact, exact_gradient), (output, gradient) = run(params)
    assert 1e-4 < far(output, exact) < 0.01
    assert 1e-4 < far(gradient, exact_gradient) < 0.03


def far(values, exact):
    """The RMS of the differences of all leaves, relative to the RMS of the exact leaves."""
    values, exact = (
        jnp.concatenate([*map(jnp.ravel, jax.tree.leaves(v))]) for v in (values, exact)
    )
    return jnp.linalg.norm(values - exact) / jnp.linalg.norm(exact)


def test_in_float32_is_the_network_of_that_type():
    config = digits.get_config()
    exact = models.create(config)
    assert models.in_float32(exact) == exact
    config.model.dtype = "bfloat16"
    assert models.create(config) != exact
    assert models.in_float32(models.create(config)) == exact
    mlp = models.create(points.get_config())
    assert models.in_float32(mlp) is mlp
