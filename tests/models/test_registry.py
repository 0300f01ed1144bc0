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
    ],
)
def test_unknown_choices_are_refused_with_the_near_one(field, value, near):
    config = digits.get_config()
    with config.unlocked():
        config.model[field] = value
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


def test_remat_of_a_network_without_blocks_is_refused():
    config = points.get_config()
    config.model.remat = True
    with pytest.raises(ValueError, match=r"remat is True, but the network 'mlp' has no blocks"):
        models.create(config)
