import ml_collections
import pytest

import models
from configs import digits, points
from models.mlp import MLP
from models.ncsnpp import NCSNpp
from models.registry import MODELS


def test_create_takes_the_fields_that_the_network_has():
    network = models.create(digits.get_config())
    assert isinstance(network, NCSNpp)
    assert network.nf == digits.get_config().model.nf
    assert network.centered
    assert isinstance(models.create(points.get_config()), MLP)


def test_lists_become_tuples():
    config = ml_collections.ConfigDict(
        {"model": {"name": "ncsnpp", "ch_mult": [1, 2]}, "data": {"centered": False}}
    )
    assert hash(models.create(config)) == hash(models.create(config))


@pytest.mark.parametrize(
    ("field", "value", "near"),
    [
        ("name", "ncsnp", "ncsnpp"),
        ("resblock_type", "bigan", "biggan"),
        ("progressive", "output_skp", "output_skip"),
        ("embedding_type", "forier", "fourier"),
        ("nonlinearity", "swich", "swish"),
        ("conditioning", "adaln", "adaln_zero"),
        ("text", "byte", "bytes"),
        ("dtype", "bfloat", "bfloat16"),
    ],
)
def test_unknown_choices_are_refused_with_the_near_one(field, value, near):
    config = digits.get_config()
    with config.unlocked():
        config.model[field] = value
        config.model.name = "dit" if field == "conditioning" else config.model.name
    with pytest.raises(ValueError, match=f"config.model.{field}.*did you mean '{near}'"):
        models.create(config)


@pytest.mark.parametrize("name", MODELS)
def test_every_network_takes_its_centring_from_the_data(name):
    config = digits.get_config()
    config.model.name = name
    for centered in (True, False):
        config.data.centered = centered
        network = models.create(config)
        assert type(network) is MODELS[name]
        assert getattr(network, "centered", centered) == centered


@pytest.mark.parametrize("name", ["ncsnpp", "adm", "dit"])
def test_classes_are_the_data_s_where_the_network_is_conditional(name):
    config = digits.get_config()
    config.model.name, config.model.augment_dim = name, 9
    assert (models.create(config).num_classes, models.create(config).augment_dim) == (0, 9)
    config.model.class_conditional, config.data.num_classes = True, 7
    assert models.create(config).num_classes == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.class_conditional": True, "data.num_classes": 0}, "num_classes is 0: it must be"),
        (
            {"model.class_conditional": True, "model.name": "ddpm"},
            "network 'ddpm' has no such option: take",
        ),
        (
            {"model.augment_dim": 9, "model.name": "ncsnv2_64"},
            "network 'ncsnv2_64' has no such option: take",
        ),
        ({"model.text": "bytes", "model.name": "ddpm"}, "network 'ddpm' has no such option: take"),
        ({"model.text": "bytes", "model.text_width": 0}, "config.model.text_width is 0: it must"),
        (
            {"model.low_res_size": 4, "model.name": "ddpm"},
            "network 'ddpm' has no such option: take",
        ),
        (
            {"model.class_conditional": True, "model.conditional": False},
            "option: take 'ncsnpp' .*True",
        ),
        ({"model.low_res_size": 4, "model.name": "discriminator"}, "sees no smaller images: .* 0"),
    ],
    ids=str,
)
def test_conditions_of_a_network_that_sees_none_are_refused(values, message):
    config = digits.get_config()
    config.update_from_flattened_dict(values)
    with pytest.raises(ValueError, match=message):
        models.create(config)


@pytest.mark.parametrize("name", ["mlp", "ncsnv2_64", "discriminator"])
def test_bfloat16_of_a_network_without_it_is_refused(name):
    config = digits.get_config()
    config.model.update(name=name, encoder="mlp", dtype="bfloat16")
    able = "'ncsnpp', 'adm', 'edm2', 'dit', 'ddpm', 'unet2d', 'wideresnet'"
    network = "mlp" if name == "discriminator" else name
    with pytest.raises(ValueError, match=f"'{network}' computes in float32 alone: .* {able}"):
        models.create(config)


def test_fourier_features_of_a_network_without_them_are_refused():
    config = digits.get_config()
    config.model.name, config.model.fourier_features = "ddpm", (3, 4)
    with pytest.raises(
        ValueError, match=r"fourier_features is \(3, 4\), but the network 'ddpm' has no"
    ):
        models.create(config)


def test_remat_of_a_network_without_blocks_is_refused():
    config = points.get_config()
    config.model.remat = True
    with pytest.raises(ValueError, match="remat is True, but the network 'mlp' has no such option"):
        models.create(config)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ncsnpp", "score"),
        ("mlp", "score"),
        ("wideresnet", "classifier"),
        ("discriminator", "discriminator"),
        ("autoencoder", "autoencoder"),
    ],
)
def test_every_network_has_a_kind(name, kind):
    config = digits.get_config()
    config.model.name = name
    assert models.kind(config) == kind
