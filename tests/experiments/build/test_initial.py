import logging
import shutil
import sys

import jax
import numpy as np
import pytest
import saved_runs
import weights
from flax.traverse_util import flatten_dict

from configs import digits, emoji, points
from experiments.build import initial, restored
from experiments.build.fields import configs
from experiments.runs import files
from experiments.training import init_from
from models import published
from models.published.base import Card, Format, Found, Tensor


def digits_config(**fields):
    """A small network of the digits; fields by full names with __ for dots."""
    config = digits.get_config("vp_score_sde")
    config.model.update(nf=8, ch_mult=(1,), attn_resolutions=(), num_res_blocks=0)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


def shapes(config):
    return jax.eval_shape(restored.skeleton(config).init, jax.random.key(0))


def first_weights(config, folder, source):
    config.training.init_from = str(source)
    return initial.weights(config, folder, shapes(config))


def warnings_of(caplog):
    ours = (record for record in caplog.records if record.name == initial.LOG.name)
    return [record.getMessage() for record in ours if record.levelno == logging.WARNING]


@pytest.fixture
def read(other, monkeypatch):
    """The other run's weights are in memory, which takes less time."""
    monkeypatch.setattr(restored, "weights", lambda *_, **__: (other[1], 7))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run of the digits, and its weights."""
    folder = tmp_path_factory.mktemp("other")
    return folder, saved_runs.save(digits_config(), folder, steps=(7,))


def test_the_first_weights_are_those_of_another_run(other, tmp_path, caplog):
    """What is made anew is logged, and what is known of a publication is passed on."""
    folder, params = other
    source = shutil.copytree(folder, tmp_path / "source")
    about = {"source": "https://there", "license": "MIT", "commercial": False, "step": 5}
    files.write_json(source / "published.json", about)
    with caplog.at_level(logging.INFO):
        found = first_weights(
            digits_config(model__class_conditional=True), tmp_path / "run", source
        )
    assert found is not None
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert about.items() - {("step", 5)} <= found.record.items()
    assert (found.record["from"], found.record["step"]) == (str(source), 7)
    assert f"the first weights are those of {source}" in caplog.text
    assert "made anew: class_embedding (0 classes there, 10 here)" in caplog.text
    forbids = "the license of these weights, MIT, forbids commercial use"
    assert warnings_of(caplog) == [forbids]
    assert first_weights(digits_config(), tmp_path / "run", "") is None


@pytest.mark.parametrize(
    ("get_config", "variant", "changes", "expected"),
    [
        (
            digits.get_config,
            "classifier",
            {"data.num_classes": 3},
            ["made anew: Dense_2 (10 classes to tell apart there, 3 here)"],
        ),
        (
            digits.get_config,
            "discriminator",
            {"data.num_channels": 3},
            ["made anew: encoder/Conv_0 (1 channels there, 3 here)"],
        ),
        (
            emoji.get_config,
            "autoencoder",
            {"autoencoder.adversarial.weight": 0.1},
            ["made anew: discriminator (no patch discriminator there)"],
        ),
        (
            digits.get_config,
            "vdm_fixed",
            {"model.learned_schedule": True},
            ["made anew: schedule (no learned schedule there)"],
        ),
        (points.get_config, "moons", {"data.dataset": "swiss_roll"}, []),
    ],
)
def test_any_kind_of_model_can_begin_with_weights(
    tmp_path, monkeypatch, get_config, variant, changes, expected
):
    small = {"blocks_per_group": 1, "channel_multiplier": 1, "nf": 8, "ch_mult": (1,)}
    small |= {"attn_resolutions": (), "num_res_blocks": 0, "pretrained": ""}
    theirs, ours = get_config(variant), get_config(variant)
    for config in (theirs, ours):
        config.model.update({name: small[name] for name in small if name in config.model})
    ours.update_from_flattened_dict(changes)
    params = weights.drawn(shapes(theirs))
    monkeypatch.setattr(restored, "weights", lambda *_, **__: (params, 7))
    configs.save(theirs, tmp_path / "theirs")
    found = first_weights(ours, tmp_path / "ours", tmp_path / "theirs")
    assert found is not None
    assert found.matched.lines(init_from.shapes_of(shapes(ours))) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__nf": 16}, r"config\.model\.nf = 8 \(here 16\): set these"),
        ({"model__num_res_blocks": 2}, r"config\.model\.num_res_blocks = 0 \(here 2\)"),
        (
            {"model__ch_mult": (1, 1), "data__image_size": 4},
            r"ch_mult = \(1,\) \(here \(1, 1\)\), config\.data\.image_size = 8 \(here 4\)",
        ),
        ({"model__name": "ddpm"}, r"config\.model\.name = 'ncsnpp' \(here 'ddpm'\)"),
    ],
)
@pytest.mark.usefixtures("read")
def test_first_weights_of_another_network_are_refused_with_the_fields(
    other, tmp_path, fields, message
):
    with pytest.raises(ValueError, match=f"init_from, .* weights of another network, .*{message}"):
        first_weights(digits_config(**fields), tmp_path, other[0])


def test_first_weights_of_another_kind_of_model_are_refused(other, run, tmp_path):
    classifier = digits.get_config("classifier")
    for config, source in ((classifier, other[0]), (digits_config(), run[0])):
        with pytest.raises(ValueError, match=r"weights of another network, .*config\.model\.name"):
            first_weights(config, tmp_path, source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            None,
            r"folder runs/digits-edm, which config\.training\.init_from names: train that run",
        ),
        ("nowhere", r"folder nowhere, which config\.training\.init_from names: train"),
        ("mine/edm", "init_from is mine/edm: .*the package huggingface_hub.* train that run first"),
    ],
)
def test_first_weights_that_are_missing_are_named_without_a_download(
    tmp_path, monkeypatch, source, message
):
    """None is the default of the command, in a folder without any run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    config = digits.get_config("consistency")
    if source:
        config.training.init_from = source
    with pytest.raises(ValueError, match=message):
        initial.weights(config, tmp_path, {})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"training__sde": "subvpsde"}, "config.training.sde = 'vpsde' (here 'subvpsde')"),
        ({"model__beta_max": 10.0}, "config.model.beta_max = 20.0 (here 10.0)"),
        ({"model__parametrization": "v"}, "config.model.parametrization = 'score_sde' (here 'v')"),
        ({"model__nonlinearity": "elu"}, "config.model.nonlinearity = 'swish' (here 'elu')"),
        ({"data__centered": False}, "config.data.centered = True (here False)"),
        ({"data__image_size": 16}, "config.data.image_size = 8 (here 16)"),
        ({"model__dropout": 0.3, "optim__lr": 1.0, "sampling__n_steps": 7}, None),
    ],
)
@pytest.mark.usefixtures("read")
def test_fields_that_give_the_weights_another_meaning_are_warned_of(
    other, tmp_path, caplog, fields, said
):
    config = digits_config()
    config.model.nonlinearity = "swish"
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    assert first_weights(config, tmp_path, other[0]) is not None
    warnings = warnings_of(caplog)
    assert len(warnings) == (said is not None)
    assert said is None or f"were trained with {said}: they mean" in warnings[0]


def test_a_run_that_goes_on_reads_its_first_weights_only_if_they_are_elsewhere(
    other, tmp_path, monkeypatch
):
    """And these must be the same."""
    places = {other[0]: other[1], tmp_path / "changed": {"weight": np.ones(3, np.float32)}}
    monkeypatch.setattr(restored, "weights", lambda _, folder, **__: (places[folder], 7))
    configs.save(digits_config(), tmp_path / "changed")
    (tmp_path / "changed" / "checkpoints").mkdir()
    config, folder = digits_config(training__init_from=str(tmp_path / "gone")), tmp_path / "run"
    found = first_weights(digits_config(), folder, other[0])
    assert found is not None
    configs.save(config, folder)
    (folder / "checkpoints" / "4").mkdir(parents=True)
    files.write_json(folder / "init_from.json", found.record)
    assert first_weights(config, folder, tmp_path / "gone") is None
    assert first_weights(digits_config(), folder, other[0]) is None
    for place, message in (("nowhere", "there is no"), ("changed", "began with other weights")):
        with pytest.raises(ValueError, match=message):
            first_weights(digits_config(), folder, tmp_path / place)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ValueError, match="began with other weights"):
        first_weights(digits_config(), folder, tmp_path / "changed")


def test_the_first_weights_can_be_those_of_a_published_file(tmp_path, monkeypatch, caplog):
    """With the licence of its card. What the file does not tell of the network, the config does."""

    class Ours(Format):
        name = title = "ours"
        cards = (Card(("net*.npz",), "Digits", "https://there", "MIT", commercial=False),)

        def find(self, source):
            fields = configs.fields(digits_config())
            wanted = ("model.", "data.image", "data.num", "data.dataset")
            fields = {k: v for k, v in fields.items() if k.startswith(wanted)}
            return Found(source.content, fields, {"model.nonlinearity": "elu"}, step=3)

        def table(self, skeleton):
            return {key: Tensor("/".join(key), rows=True) for key in skeleton.shapes}

    monkeypatch.setattr(published, "FORMATS", {"ours": Ours()})
    config = digits_config(data__num_channels=3)
    params = weights.drawn(shapes(digits_config()))
    np.savez(tmp_path / "net.npz", **flatten_dict(params, sep="/"))
    with caplog.at_level(logging.INFO):
        found = first_weights(config, tmp_path / "run", tmp_path / "net.npz")
    assert found is not None
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert found.matched.anew.keys() == {"Conv_0", "Conv_1"}
    assert not any("nonlinearity" in text for text in warnings_of(caplog))
    assert "made anew: Conv_0 (1 channels there, 3 here)" in caplog.text
    about = {"model": "Digits", "license": "MIT", "commercial": False, "step": 3}
    assert about.items() <= found.record.items()
