import json

import numpy as np
import pytest

from configs import cifar10, digits, points
from experiments.runs import model_card
from experiments.training.checkpoint import CARD
from experiments.data.dataset import Dataset
from experiments.runs.model_card import About

ABOUT = About(400, 748_737, "2 x cpu", 300, 7200.4, {"loss": ("13.8", "400")})
IMAGES = Dataset(np.zeros((1500, 8, 8, 1), np.uint8), np.zeros((297, 8, 8, 1), np.uint8), 17)


def section(text, name):
    """The lines under a title."""
    return text.split(f"## {name}\n\n")[1].split("\n\n##")[0].splitlines()


def test_a_card_tells_what_the_run_was():
    config = digits.get_config("edm")
    config.seed = 7
    labels = {"train_labels": np.arange(1500) % 10, "test_labels": np.arange(297) % 10}
    text = model_card.card(config, Dataset(IMAGES.train, IMAGES.test, 17, **labels), ABOUT)
    assert text.startswith("# Diffusion model of `digits`, step 400\n")
    assert section(text, "Data")[1:] == [
        "- Licence: CC BY 4.0",
        "- Numbers: 1,500 images to train on, 297 to test on, each 8 x 8 x 1, 17 grey levels",
        "- Labels: 10 classes",
    ]
    assert section(text, "Compute")[:5] == [
        "- Parameters: 748,737",
        "- Steps: 400 of 64 samples",
        "- Samples seen: 25,600, 17.1 times the training set",
        "- Devices: 2 x cpu, when this was written",
        "- Time: 7,200 device seconds (2 hours) in 300 steps, without what is done between them "
        "(timing.jsonl)",
    ]
    rows = section(text, "Config")
    assert "| `seed` | `7` | `42` |" in rows
    assert '| `model.name` | `"ncsnpp"` | `"ncsnpp"` |' in rows
    assert '| `training.sde` | `"edm"` | `"vpsde"` |' in rows
    assert "| `model.ch_mult` | `[1, 2]` |  |" in rows
    assert not any("model.sigma_max" in row for row in rows)
    assert section(text, "Figures")[-1] == "| loss | 13.8 | 400 |"
    assert 'state.load(config, Path("RUN"), 400)' in text


@pytest.mark.parametrize(
    ("module", "variant", "said", "unsaid"),
    [
        (digits, "edm", "bits/dim are of data with uniform noise", "a class of"),
        (points, "moons", "It knows points in the plane", "bits/dim"),
        (digits, "classifier", "sampling.classifier=RUN", "--mode=sample"),
        (digits, "discriminator", "sampling.discriminator=RUN", "--mode=sample"),
        (cifar10, "edm_ddpmpp_conditional", "a class of 10 alone", "sampling.classifier"),
    ],
)
def test_limits_and_use_are_those_of_the_kind(module, variant, said, unsaid):
    config = module.get_config(variant)
    text = model_card.card(config, IMAGES, ABOUT)
    assert said in text
    assert unsaid not in text


def test_the_source_of_files_is_theirs():
    config = digits.get_config()
    config.data.dataset, config.data.path = "folder", "/some/images"
    source, licence, *_ = section(model_card.card(config, IMAGES, ABOUT), "Data")
    assert source == "- Source: the files in `/some/images`"
    assert licence == "- Licence: not known to this program"


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_account_goes_on_over_resumptions_on_other_devices(tmp_path):
    """Of a run whose first 600 steps were imported; what is later than the checkpoint is not in."""
    config = digits.get_config()
    steps = [(650, 0.2, 1), (700, 0.4, 1), (750, 0.1, 8), (800, 9.0, 8)]
    keys = "step", "seconds", "devices"
    lines(tmp_path / "timing.jsonl", [dict(zip(keys, row, strict=True)) for row in steps])
    metrics = [
        {"step": 700, "loss": 2.0, "grad_norm": 1.0},
        {"step": 700, "eval_loss": 1.5},
        {"step": 750, "loss": 1.25, "grad_norm": 1.0},
        {"step": 800, "loss": 9.0},
    ]
    lines(tmp_path / "metrics.jsonl", metrics)
    text = model_card.describe(config, tmp_path, IMAGES, 10, 750)
    assert "- Time: 70 device seconds (0.0194 hours) in 150 steps" in text
    rows = section(text, "Figures")[2:]
    assert rows == ["| loss | 1.25 | 750 |", "| eval_loss | 1.5 | 700 |"]


def test_figures_measured_later_are_added(tmp_path):
    model_card.update(tmp_path, 400, {"test bits/dim": "1.9"})  # without a card, nothing
    assert not list(tmp_path.iterdir())
    path = tmp_path / "checkpoints" / "400" / CARD
    path.parent.mkdir(parents=True)
    before = model_card.card(digits.get_config(), IMAGES, ABOUT)
    path.write_text(before)
    model_card.update(tmp_path, 400, {"recall": "0.5", "test bits/dim": "1.9"})
    model_card.update(tmp_path, 400, {"test bits/dim": "1.88 +- 0.01 (nfe 99)"})
    rows = ["| recall | 0.5 | 400 |", "| test bits/dim | 1.88 +- 0.01 (nfe 99) | 400 |"]
    assert path.read_text() == before + "\n".join(rows) + "\n"
