import json

import numpy as np
import pytest

from configs import cifar10, digits, points
from experiments.build import reports, tasks
from experiments.data.dataset import Dataset
from experiments.runs import card
from experiments.runs.card import CARD

IMAGES = Dataset(np.zeros((1500, 8, 8, 1), np.uint8), np.zeros((297, 8, 8, 1), np.uint8), 17)
N_PARAMS = 748_737


def facts(config, dataset=IMAGES):
    config.model.pretrained = ""
    return reports.card_facts(config, tasks.task(config), dataset, N_PARAMS)


def text_of(config, dataset=IMAGES):
    """The card at step 400, of which 300 steps took 7,200.4 device seconds."""
    figures = {"loss": ("13.8", "400")}
    return card.card(facts(config, dataset), 400, "2 x cpu", 300, 7200.4, figures)


def section(text, name):
    """The lines under a title."""
    return text.split(f"## {name}\n\n")[1].split("\n\n##")[0].splitlines()


def test_a_card_says_what_the_run_was():
    config = digits.get_config("edm")
    config.seed = 7
    labels = {"train_labels": np.arange(1500) % 10, "test_labels": np.arange(297) % 10}
    text = text_of(config, Dataset(IMAGES.train, IMAGES.test, 17, **labels))
    assert text.startswith("# Diffusion model of `digits`, step 400\n")
    assert section(text, "Data")[1:] == [
        "- Licence: CC BY 4.0",
        "- Numbers: 1,500 images to train on, 297 to test on, each 8 x 8 x 1, 17 grey levels",
        "- Labels: 10 classes",
        "- Balance of classes: 150 samples of each",
        "- Copies: 1,499 of 1,500 training samples repeat another one, and 297 of 297 test samples "
        "are training samples too",
    ]
    assert section(text, "Compute")[:5] == [
        "- Parameters: 748,737",
        "- Steps: 400 of 64 samples",
        "- Samples seen: 25,600, 17.1 times the training set",
        "- Devices: 2 x cpu, when this was written",
        "- Time: 7,200 device seconds (2 hours) in 300 steps, without evaluations and pictures "
        "between them (timing.jsonl)",
    ]
    assert section(text, "Compute")[5].startswith("- Energy: not estimated")
    assert "17.1 times on average" in "\n".join(section(text, "Limits"))
    rows = section(text, "Config")
    assert "| `seed` | `7` | `42` |" in rows
    assert '| `model.name` | `"ncsnpp"` | `"ncsnpp"` |' in rows
    assert '| `training.sde` | `"edm"` | `"vpsde"` |' in rows
    assert "| `model.ch_mult` | `[1, 2]` |  |" in rows
    assert not any("model.sigma_max" in row for row in rows)
    assert section(text, "Figures")[-1] == "| loss | 13.8 | 400 |"
    assert 'experiments.load("RUN", step=400)' in text


@pytest.mark.parametrize(
    ("module", "variant", "said", "unsaid"),
    [
        (digits, "edm", "bits/dim are of data with uniform noise", "a class of"),
        (points, "moons", "It knows points in the plane", "bits/dim"),
        (digits, "classifier", "guidance.classifier.run=RUN", "experiments.load"),
        (digits, "discriminator", "guidance.discriminator.run=RUN", "--mode=sample"),
        (cifar10, "edm_ddpmpp_conditional", "a class of 10", "guidance.classifier"),
    ],
)
def test_limits_and_use_are_those_of_the_kind(module, variant, said, unsaid):
    text = text_of(module.get_config(variant))
    assert said in text
    assert unsaid not in text


def test_the_energy_is_device_seconds_by_the_given_power():
    """7,200.4 device seconds of 350 W are 0.7 kWh."""
    config = digits.get_config("edm")
    config.training.device_watts = 350.0
    (row,) = (row for row in section(text_of(config), "Compute") if row.startswith("- Energy"))
    assert row.startswith("- Energy: 0.7 kWh, if each device draws 350 W all that time")
    config.training.device_watts = 0.0
    with pytest.raises(ValueError, match="device_watts is 0"):
        text_of(config)


def test_the_source_of_files_is_their_path():
    config = digits.get_config()
    config.data.dataset, config.data.path = "folder", "/some/images"
    source, licence, *_ = section(text_of(config), "Data")
    assert source == "- Source: the files in `/some/images`"
    assert licence == "- Licence: not known to this program"


@pytest.mark.parametrize(
    ("origin", "row", "licence"),
    [
        ({}, None, "Nobody has stated a licence"),
        ({"from": "runs/a", "step": 9}, "those of `runs/a` at step 9", "Nobody has stated"),
        (
            {"from": "edm.pkl", "model": "EDM", "source": "https://there", "license": "MIT"},
            "those of `edm.pkl`, EDM, https://there",
            "weights under the licence MIT. It holds",
        ),
        (
            {"source": "https://there", "license": "CC-BY-NC-SA-4.0", "commercial": False},
            "those of https://there",
            "under the licence CC-BY-NC-SA-4.0: no commercial use. It holds for these weights too.",
        ),
    ],
)
def test_a_card_says_where_the_first_weights_are_from_and_their_licence(origin, row, licence):
    text = card.card(facts(digits.get_config()), 400, "1 x cpu", 0, 0.0, {}, origin)
    last = f"- First weights: {row}" if row else "- Copies: "
    assert section(text, "Data")[-1].startswith(last)
    assert licence in section(text, "Licence")[0]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_account_continues_over_resumptions_on_other_devices(tmp_path):
    """The first 600 steps of this run were imported; lines after the checkpoint do not count."""
    steps = [(650, 0.2, 1), (700, 0.4, 1), (750, 0.1, 8), (800, 9.0, 8)]
    keys = "step", "seconds", "devices"
    write_lines(tmp_path / "timing.jsonl", [dict(zip(keys, row, strict=True)) for row in steps])
    metrics = [
        {"step": 700, "loss": 2.0, "grad_norm": 1.0},
        {"step": 700, "eval_loss": 1.5},
        {"step": 750, "loss": 1.25, "grad_norm": 1.0},
        {"step": 800, "loss": 9.0},
    ]
    write_lines(tmp_path / "metrics.jsonl", metrics)
    text = card.describe(facts(digits.get_config()), tmp_path, 750)
    assert "- Time: 70 device seconds (0.0194 hours) in 150 steps" in text
    rows = section(text, "Figures")[2:]
    assert rows == ["| loss | 1.25 | 750 |", "| eval_loss | 1.5 | 700 |"]


def test_figures_measured_later_are_added(tmp_path):
    card.update(tmp_path, 400, {"test bits/dim": "1.9"})  # without a card, nothing
    assert not list(tmp_path.iterdir())
    path = tmp_path / "checkpoints" / "400" / CARD
    path.parent.mkdir(parents=True)
    before = text_of(digits.get_config())
    path.write_text(before)
    card.update(tmp_path, 400, {"recall": "0.5", "test bits/dim": "1.9"})
    card.update(tmp_path, 400, {"test bits/dim": "1.88 +- 0.01 (nfe 99)"})
    rows = ["| recall | 0.5 | 400 |", "| test bits/dim | 1.88 +- 0.01 (nfe 99) | 400 |"]
    assert path.read_text() == before + "\n".join(rows) + "\n"
