"""Networks for images take series and volumes too, with the same layers along every side."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from models.adm import ADM
from models.adm_encoder import ADMClassifier, ADMHead
from models.autoencoder import Autoencoder, PatchDiscriminator
from models.ddpm import DDPM
from models.discriminator import Discriminator
from models.dit import DiT, patchify, position_embedding, unpatchify
from models.edm2 import EDM2
from models.ncsnpp import NCSNpp
from models.ncsnv2 import NCSNv2
from models.unet2d import UNet2D
from models.wideresnet import WideResNet

SIDES = {"series": (8,), "wide images": (2, 8), "volumes": (2, 4, 2)}
ADM_LEVELS: dict[str, Any] = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1}
NETWORKS = {
    "ddpm": DDPM(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=()),
    "ncsnpp": NCSNpp(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=()),
    "skips": NCSNpp(
        nf=8,
        ch_mult=(1, 2),
        num_res_blocks=1,
        attn_resolutions=(),
        resblock_type="ddpm",
        progressive="residual",
        progressive_input="input_skip",
        embedding_type="positional",
        scale_by_sigma=False,
    ),
    "adm": ADM(attn_resolutions=(), **ADM_LEVELS),
    "adm without blocks that resample": ADM(
        attn_factors=(2,), resblock_updown=False, use_scale_shift_norm=False, **ADM_LEVELS
    ),
    "dit": DiT(patch_size=2, hidden_size=16, depth=1, num_heads=2),
    "edm2": EDM2(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=()),
    "unet2d": UNet2D(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    ),
    "autoencoder": Autoencoder(nf=8, ch_mult=(1, 2), quant_conv=True, post_quant_conv=True),
}
POOLED = {
    "wideresnet": WideResNet(blocks_per_group=1, channel_multiplier=1),
    **{
        f"adm_classifier, {pool}": ADMClassifier(attn_resolutions=(4,), pool=pool, **ADM_LEVELS)
        for pool in ("attention", "adaptive", "spatial", "spatial_v2")
    },
    "discriminator": Discriminator(NETWORKS["adm"]),
    "discriminator of ADM": Discriminator(NETWORKS["adm"], reader=ADMHead(nf=8, ch_mult=(1,))),
}


def changes(network, sides, read):
    """How much each position of a sample changes a part of its output, and of another's output.

    One program runs a batch with a sample for each position, in which that position is changed.
    What does not depend on the position is then the same to the last bit.

    Args:
        network: takes images [B, *sides, 3] and noise labels.
        sides: of the samples.
        read: the part of the outputs, such as a pixel: (outputs) -> [B, ...].

    Returns:
        An array of the sides, and a number.
    """
    n = np.prod(sides)
    x = np.random.RandomState(0).standard_normal((1, n, 3)).astype("f4").repeat(n + 1, 0)
    other = x.copy()
    other[1:] += 10 * np.eye(n)[..., None]
    labels = jnp.full(n + 1, 0.5)
    x, other = (batch.reshape(n + 1, *sides, 3) for batch in (x, other))
    params = weights.random(network, x, labels)

    @jax.jit
    def part(x):
        output = network.apply({"params": params}, x, labels)
        return read(output).reshape(n + 1, -1)

    plain, changed = np.asarray(part(x)), np.asarray(part(other))
    return np.abs(changed - plain)[1:].max(1).reshape(sides), np.abs(changed - plain)[0].max()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["series", pytest.param("volumes", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_any_number_of_sides_sees_every_position(name, kind):
    """The output is of the input's shape, and its middle depends on inputs on all sides of it."""
    sides = SIDES[kind]

    def middle(output):
        assert output.shape[1:] == (*sides, 3)
        return output[(slice(None), *(side // 2 for side in sides))]

    own, others = changes(NETWORKS[name], sides, middle)
    assert others == 0  # another sample
    for axis in range(len(sides)):
        rest = tuple(i for i in range(len(sides)) if i != axis)
        assert (own.max(rest) > 0).all()


def lifted(params):
    """Parameters that ignore a new first side: kernels have one non-zero row along it."""

    def lift(path, leaf):
        if path[-1].key != "kernel" or leaf.ndim < 3:
            return leaf
        return jnp.pad(leaf[None], [(leaf.shape[0] // 2,) * 2, *[(0, 0)] * leaf.ndim])

    return jax.tree_util.tree_map_with_path(lift, params)


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("ncsnpp", (8,)),
        ("ddpm", (4, 8)),
        pytest.param("ddpm", (8,), marks=pytest.mark.slow),
        pytest.param("ncsnpp", (4, 8), marks=pytest.mark.slow),
    ],
)
def test_equal_slices_are_seen_as_one_slice(name, sides):
    """A stack of equal series or images gives the stack of its network's outputs."""
    network = NETWORKS[name].clone(parent=None)
    if name == "ncsnpp":  # without a filter, which sees the zeros around the stack
        network = network.clone(parent=None, fir=False, progressive_input="none")
    x, labels = jax.random.normal(jax.random.key(0), (2, *sides, 3)), jnp.array([0.5, 2.0])
    params = weights.random(network, x, labels)
    apply = jax.jit(network.apply)
    expected = apply({"params": params}, x, labels)
    stack = jnp.broadcast_to(x[:, None], (2, 2, *x.shape[1:]))
    found = apply({"params": lifted(params)}, stack, labels)
    np.testing.assert_allclose(found, jnp.broadcast_to(expected[:, None], found.shape), atol=2e-5)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "sides"), [*((name, (4, 8, 4)) for name in POOLED), ("wideresnet", (8,))]
)
def test_pooling_networks_see_every_position(name, sides):
    own, others = changes(POOLED[name], sides, lambda output: output[:, -1])
    assert (own > 0).all()
    assert others == 0


@pytest.mark.parametrize("kind", ["series", pytest.param("volumes", marks=pytest.mark.slow)])
def test_conditions_go_with_any_number_of_sides(kind):
    """Captions by cross-attention, classes, and a low-resolution image that is concatenated."""
    network = ADM(attn_factors=(1,), num_classes=3, text="bytes", low_res=True, **ADM_LEVELS)
    x, labels = jnp.ones((2, *SIDES[kind], 3)), jnp.array([0.5, 2.0])
    params = weights.random(network, x, labels)

    @jax.jit
    def apply(low_res, noise, text, classes):
        conditions = {"class_labels": classes, "text": text}
        conditions |= {"low_res": low_res, "low_res_noise": noise}
        return network.apply({"params": params}, x, labels, **conditions)

    given = x / 2, labels / 4, jnp.ones((2, 5), int), jnp.array([0, 1])
    expected = apply(*given)
    assert expected.shape == x.shape
    for i in range(len(given)):
        changed = list(given)
        changed[i] = given[i].at[0].add(1)
        difference = np.abs(apply(*changed) - expected)
        assert difference[0].max() > 1e-3
        assert difference[1].max() == 0


@pytest.mark.parametrize("sides", SIDES.values())
def test_patches_are_taken_along_every_side(sides):
    x = jnp.arange(2 * np.prod(sides) * 3).reshape(2, *sides, 3)
    tokens = patchify(x, 2)
    assert tokens.shape == (2, np.prod(sides) // 2 ** len(sides), 3 * 2 ** len(sides))
    first = x[(0, *[slice(2)] * len(sides))]
    np.testing.assert_array_equal(tokens[0, 0], first.reshape(-1))
    counts = tuple(side // 2 for side in sides)
    np.testing.assert_array_equal(unpatchify(tokens, counts, 2), x)


def test_places_of_patches_are_told_apart_along_every_side():
    for counts in ((6,), (2, 6), (3, 2, 4)):
        embedding = position_embedding(counts, 16)
        assert embedding.shape == (np.prod(counts), 16)
        assert len(np.unique(embedding.round(5), axis=0)) == np.prod(counts)


def test_patch_logits_have_the_sides_of_their_data():
    x, network = jnp.ones((2, 8, 8, 8, 1)), PatchDiscriminator(4)
    logits = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), x)[0])
    assert logits.shape == (2, 2, 2, 2, 1)


@pytest.mark.parametrize("sides", [(8,), (4, 4, 4)])
def test_networks_of_images_alone_say_so(sides):
    x = jnp.ones((2, *sides, 3))
    with pytest.raises(ValueError, match=r"NCSNv2 takes images, but a sample has the shape "):
        weights.shapes(NCSNv2(nf=8), x, jnp.ones(2))


@pytest.mark.parametrize("name", ["adm", "ddpm", "ncsnpp", "edm2", "unet2d", "autoencoder", "dit"])
@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((7,), "series of 7 steps cannot be .* 6 or 8"),
        ((5, 4), "images of 5 x 4 pixels cannot be .* 4 x 4 or 6 x 4"),
        ((4, 7, 2), "volumes of 4 x 7 x 2 voxels cannot be .* 4 x 6 x 2 or 4 x 8 x 2"),
    ],
)
def test_odd_sides_are_refused_with_the_nearest(name, sides, message):
    with pytest.raises(ValueError, match=message):
        weights.shapes(NETWORKS[name], jnp.ones((2, *sides, 3)), jnp.ones(2))
