import dataclasses

import jax
import numpy as np
import pytest
import weights
from flax.traverse_util import flatten_dict
from toys import Toy, first_state

import models
from experiments.training import init_from
from experiments.training.init_from import Model
from models.discriminator import Discriminator

TINY = {"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()}
DIT = {"patch_size": 2, "hidden_size": 16, "depth": 1, "num_heads": 2}
RESNET = {"blocks_per_group": 1, "channel_multiplier": 1}
PYRAMIDS = {"progressive": "output_skip", "progressive_input": "input_skip", "ch_mult": (1, 1)}


def model(name="ncsnpp", channels=1, schedule=False, shape=(8, 8), **fields):
    """A small network of this name, with other fields."""
    own = {"dit": DIT, "wideresnet": RESNET, "mlp": {"nf": 8, "num_res_blocks": 1}}
    own["autoencoder"] = TINY | {"channels": channels}
    network = models.MODELS[name](**own.get(name, TINY) | fields)
    return Model(network, (*shape, channels), schedule)


def matched(ours, theirs):
    return init_from.match(ours, theirs, ours.shapes(), theirs.shapes())


def lines(ours, theirs):
    found = matched(ours, theirs)
    assert found is not None
    return found.lines(ours.shapes())


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (
            model(num_classes=5),
            model(num_classes=10),
            ["made anew: class_embedding (10 classes there, 5 here)"],
        ),
        (
            model("adm", num_classes=5),
            model("adm"),
            ["made anew: class_embedding (0 classes there, 5 here)"],
        ),
        (model(), model(num_classes=2), ["left out: class_embedding (2 classes there, 0 here)"]),
        (
            model("mlp", 3, shape=()),
            model("mlp", 2, shape=()),
            [f"made anew: Dense_{k} (2 channels there, 3 here)" for k in (1, 5)],
        ),
        (
            model("dit", 3, num_classes=3, augment_dim=9),
            model("dit", 1, num_classes=3, label_confidence=True, learned_variance=True),
            [
                "made anew: augment_embedding (0 augmentation labels there, 9 here)",
                "made anew: output (1 channels there, 3 here, outputs for the variance there, none "
                "here)",
                "made anew: patches (1 channels there, 3 here)",
                "left out: confidence_embedding (confidences there, none here)",
            ],
        ),
        (
            model("adm", low_res=True, text="bytes", text_width=8, text_depth=1),
            model("adm", text="bytes", text_width=8, text_depth=1),
            [
                "made anew: Conv_0 (no smaller images there)",
                "made anew: low_res_embedding (no smaller images there)",
            ],
        ),
        (
            model("dit", text="bytes", text_width=8, text_depth=1),
            model("dit"),
            [
                "made anew: text_embedding (no captions there)",
                "made anew: text_encoder (no captions there)",
            ],
        ),
        (
            model("dit", num_classes=3),
            model("dit", num_classes=3, null_class=True),
            ["made anew: class_embedding (other classes there)"],
        ),
        (
            model("dit"),
            model("dit", num_classes=3, null_class=True),
            ["left out: class_embedding (3 classes there, 0 here)"],
        ),
        (
            model("wideresnet", num_outputs=3),
            model("wideresnet"),
            ["made anew: Dense_2 (10 classes to tell apart there, 3 here)"],
        ),
        (
            Model(Discriminator(model("wideresnet", num_outputs=3).network), (8, 8, 3)),
            Model(Discriminator(model("wideresnet").network), (8, 8, 1)),
            ["made anew: encoder/Conv_0 (1 channels there, 3 here)"],
        ),
        (
            model("autoencoder", adversarial=True),
            model("autoencoder"),
            ["made anew: discriminator (no patch discriminator there)"],
        ),
        (model(schedule=True), model(), ["made anew: schedule (no learned schedule there)"]),
        (
            dataclasses.replace(model(), log_variance=4),
            model(),
            ["made anew: log_variance (0 features of the log variance there, 4 here)"],
        ),
        (model(dropout=0.5), model(dropout=0.1), []),
        (model(shape=(16, 16)), model(), []),
    ],
)
def test_layers_of_other_data_and_conditions_are_made_anew(ours, theirs, expected):
    assert lines(ours, theirs) == expected


@pytest.mark.thorough
def test_all_that_reads_or_writes_channels_is_made_anew():
    """In the pyramids of NCSN++ at every level: all layers whose shapes differ, and no others."""
    ours, theirs = model(channels=3, **PYRAMIDS), model(channels=1, **PYRAMIDS)
    found, here, there = matched(ours, theirs), ours.shapes(), theirs.shapes()
    assert found is not None
    assert here.keys() == there.keys()
    layers = {name.rpartition("/")[0] for name in here if here[name] != there[name]}
    assert found.anew.keys() == layers
    assert len(layers) == 4


@pytest.mark.parametrize(
    "ours",
    [
        model(nf=16),
        model(num_res_blocks=2),
        model(ch_mult=(1, 1)),
        model(fourier_features=(3,)),
        model(conditional=False),
        model("adm"),
    ],
)
def test_weights_of_another_network_do_not_match(ours):
    assert matched(ours, model(num_classes=2)) is None


@pytest.mark.thorough
def test_a_start_takes_what_fits_and_keeps_the_rest():
    """In parameters and averages; the optimizer and the step are new."""

    class Network(Toy):
        def init(self, key):
            return weights.drawn(weights.shapes(ours.network, *inputs))

    ours, theirs = model(num_classes=5), model(num_classes=10)
    inputs = np.zeros((1, 8, 8, 1), np.float32), np.ones(1, np.float32)
    old = jax.tree.map(lambda x: x + 1, weights.random(theirs.network, *inputs))
    state, found = first_state(Network()), matched(ours, theirs)
    assert found is not None
    warm = init_from.warm_start(state, old, found)
    before, after, averages, there = (
        flatten_dict(tree, sep="/") for tree in (state.params, warm.params, warm.ema_params, old)
    )
    assert after.keys() == before.keys()
    for name, value in after.items():
        source = before if name.startswith("class_embedding/") else there
        np.testing.assert_array_equal(value, source[name])
        np.testing.assert_array_equal(averages[name], value)
    assert int(warm.step) == 0
    jax.tree.map(np.testing.assert_array_equal, warm.opt_state, state.opt_state)


def test_fields_in_which_networks_differ_are_named():
    """Beside those of the data and of conditions."""
    one, other = model("adm", num_classes=3), Model(models.MODELS["adm"](), (8, 8, 1))
    found = init_from.differences(one.network, other.network)
    assert found["nf"] == (192, 8)
    assert found.keys() == {"nf", "ch_mult", "num_res_blocks", "attn_resolutions"}
    assert init_from.differences(one.network, model().network) == {"name": ("NCSNpp", "ADM")}
    discriminators = (Discriminator(each.network) for each in (one, other))
    assert init_from.differences(*discriminators) == found
