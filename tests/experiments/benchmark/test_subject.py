import dataclasses
from pathlib import Path

import numpy as np

from experiments.benchmark.presets import PRESETS
from experiments.benchmark.subject import Subject
from experiments.build import data


def test_changes_reach_the_config_and_the_command_line():
    subject = Subject("digits", "edm").having(("model.nf", 8), ("optim.lr", 0.5))
    config = subject.config()
    assert (config.training.sde, config.model.nf, config.optim.lr) == ("edm", 8, 0.5)
    path, *changes = subject.flags()
    file, variant = path.removeprefix("--config=").split(":")
    assert (Path(file).name, variant) == ("digits.py", "edm")
    assert Path(file).is_file()
    assert changes == ["--config.model.nf=8", "--config.optim.lr=0.5"]
    assert str(subject) == "digits:edm model.nf=8 optim.lr=0.5"


def test_every_subject_of_the_presets_is_a_config():
    for preset in PRESETS.values():
        sampled = [subject for subject, _ in preset.sampled]
        others = preset.guided, preset.critic, preset.started
        for subject in (*preset.subjects, *preset.networks, *sampled, *others):
            assert subject.config().training.batch_size > 0


def test_random_images_stand_in_for_a_data_set(tmp_path):
    preset = dataclasses.replace(PRESETS["gpu"], random_images=200).with_data(tmp_path)
    for subject in (*preset.subjects, *preset.networks, preset.started):
        dataset = data.images(subject.config())
        assert dataset.train.shape == (180, 32, 32, 3)
        assert dataset.train.dtype == np.uint8
        assert len(np.unique(dataset.train)) == 256
