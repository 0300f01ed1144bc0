"""Shapes of data other than those of square images, from the config to the network."""

import functools
import operator

import jax
import numpy as np
import pytest

import models
from configs import default
from experiments.build import reports, tasks
from experiments.build.components import optimization, specs
from experiments.data.dataset import Dataset
from experiments.data.sources import SOURCES, Source
from experiments.training.state import abstract_state

SMALL = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": ()}
NETWORKS = {
    "ncsnpp": SMALL | {"embedding_type": "positional", "scale_by_sigma": False},
    "adm": SMALL | {"nf": 32, "num_head_channels": 8},
    "dit": {"patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2},
    "ddpm": SMALL,
    "edm2": SMALL | {"num_head_channels": 8},
    "adm_classifier": SMALL | {"nf": 32, "num_head_channels": 8},
    "unet2d": {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
    },
    "wideresnet": {"blocks_per_group": 1, "channel_multiplier": 1},
    "autoencoder": SMALL,
}


@pytest.fixture(autouse=True)
def oblong(monkeypatch):
    """A source of grey levels of any shape."""

    def load(spec):
        values = (np.arange(40 * np.prod(spec.shape)) % 256).astype(np.uint8)
        values = values.reshape(40, *spec.shape)
        return Dataset(values[:32], values[32:], 256, np.arange(32) % 4, np.arange(8) % 4)

    monkeypatch.setitem(SOURCES, "oblong", Source(load))


def config(shape, network="ncsnpp", **changes):
    result = default.get_config()
    result.data.update(dataset="oblong", shape=shape, num_classes=4)
    with result.unlocked():
        result.model.update(name=network, **NETWORKS.get(network, {}))
    result.model.parametrization = "edm"
    for name, value in changes.items():
        *sections, field = name.split("__")
        functools.reduce(operator.getitem, sections, result)[field] = value
    return result


def test_a_square_image_has_a_short_form():
    ours = config((), data__image_size=16, data__num_channels=1)
    assert specs.data_shape(ours) == models.data_shape(ours) == (16, 16, 1)
    assert specs.data_shape(config((16, 16, 1))) == (16, 16, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__image_size": 8}, r"image_size is 8, but config.data.shape = \(8, 12, 1\) says it"),
        ({"data__num_channels": 1}, "num_channels is 1, .* says it too: leave num_channels out"),
        ({"data__shape": (8, 0, 1)}, r"config.data.shape is \(8, 0, 1\): it must be one to four"),
        ({"data__shape": (8, 2.5)}, r"config.data.shape is \(8, 2.5\): it must be"),
        ({"data__shape": (1, 1, 1, 1, 1)}, "it must be one to four integers"),
        ({"data__dataset": "moons"}, r"shape is \(8, 12, 1\), but a sample of 'moons' has the"),
    ],
    ids=str,
)
def test_contradicting_or_impossible_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        specs.data_shape(config((8, 12, 1), **changes))


@pytest.mark.parametrize("shape", [(12, 3), (8, 12, 3), (4, 8, 4, 3)], ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_take_series_images_that_are_not_square_and_volumes(network, shape):
    ours = config(shape, network)
    task = tasks.task(ours)
    assert task.shape == shape
    assert jax.tree.leaves(abstract_state(task, 0, optimization.mesh(ours)).params)
    if network == "autoencoder":
        assert specs.latent_shape(ours) == (*(side // 2 for side in shape[:-1]), 4)


@pytest.mark.parametrize("shape", [(12, 3), (4, 8, 4, 3)], ids=str)
@pytest.mark.parametrize("network", ["ncsn", "ncsnv2_64"])
def test_networks_of_images_alone_name_the_others(network, shape):
    with pytest.raises(ValueError, match=rf"'{network}' does not go with .*: choose 'ncsnpp', "):
        tasks.task(config(shape, network))


@pytest.mark.parametrize(
    ("shape", "nearest"),
    [((13, 3), "12 or 14"), ((8, 13, 3), "8 x 12 or 8 x 14"), ((4, 8, 5, 3), "4 x 8 x 4 or 4")],
    ids=str,
)
@pytest.mark.parametrize("network", ["ncsnpp", "adm", "ddpm", "edm2", "unet2d", "autoencoder"])
def test_odd_sizes_are_refused_with_the_nearest(network, shape, nearest):
    ours = config(shape, network)
    with pytest.raises(ValueError, match=f"cannot be halved 1 times, .* as in {nearest}"):
        abstract_state(tasks.task(ours), 0, optimization.mesh(ours))


@pytest.mark.parametrize("network", ["ncsnpp", "adm", "dit", "ddpm"])
def test_data_of_other_axes_are_refused_with_the_networks_that_fit(network):
    with pytest.raises(ValueError, match=rf"'{network}' does not go with .* vectors .*: .*'mlp'"):
        tasks.task(config((50,), network))
    with pytest.raises(ValueError, match=r"'mlp' does not go with .* images .*: choose 'ncsnpp', "):
        tasks.task(config((8, 12, 3), "mlp"))


@pytest.mark.parametrize(
    ("shape", "network", "kind"),
    [
        ((50,), "mlp", "vectors"),
        ((12, 1), "ncsnpp", "series"),
        ((4, 4, 4, 1), "adm", "volumes"),
        ((12, 1), "wideresnet", "series"),
        ((4, 4, 4, 1), "autoencoder", "volumes"),
    ],
    ids=str,
)
@pytest.mark.parametrize(("field", "value"), [("random_flip", True), ("augment", 0.1)], ids=str)
def test_augmentations_of_images_are_refused_for_other_data(shape, network, kind, field, value):
    with pytest.raises(ValueError, match=f"which is for images, and the data are {kind}: leave"):
        tasks.task(config(shape, network, **{f"data__{field}": value}))


@pytest.mark.parametrize("shape", [(8, 12, 1), (8, 1), (8, 8, 8, 1)], ids=str)
def test_cascades_are_of_square_images(shape):
    with pytest.raises(ValueError, match=r"it is for square images, .* shape \(8, "):
        tasks.task(config(shape, model__low_res_size=4))


def test_a_perceptual_distance_by_inception_is_of_images(tmp_path):
    (tmp_path / "inception.npz").touch()
    changes = {"autoencoder__perceptual__run": str(tmp_path / "inception.npz")}
    with pytest.raises(ValueError, match="Inception, which sees images, and the data are series"):
        tasks.task(config((12, 1), "autoencoder", **changes))


def test_sample_quality_of_other_data_than_images_of_grey_levels_is_of_their_numbers():
    assert specs.feature_shape(config((8, 12, 1))) == (8, 12, 1)
    assert specs.feature_shape(config((8, 3))) == (24,)
    long = config((5000, 1))
    with pytest.raises(ValueError, match="5,000 in a sample, and 4,096 are the most"):
        specs.check_features(long)
    with pytest.raises(ValueError, match="which is for images of grey levels: leave it out"):
        specs.check_features(config((50,), eval__features="weights.npz"))


def test_the_card_knows_the_shape():
    task = tasks.task(config((8, 12, 1)))
    facts = reports.card_facts(config((8, 12, 1)), task, SOURCES["oblong"].load(task), 1)
    assert "images of 8 x 12 pixels" in facts.limits[0]
    assert "each 8 x 12 x 1" in facts.data["Numbers"]
