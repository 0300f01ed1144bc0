import dataclasses
from pathlib import Path

import numpy as np
import pytest

import samplers
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


@pytest.mark.thorough
@pytest.mark.parametrize("name", PRESETS)
def test_every_sampler_of_the_presets_goes_with_its_model(name):
    """A sampler of other SDEs is refused when the pipeline is made."""
    for subject, names in PRESETS[name].sampled:
        for sampler in names:
            model = subject.pipeline(None, sampler, PRESETS[name].n_steps)
            assert isinstance(model.sampler, samplers.SAMPLERS[sampler])
    with pytest.raises(ValueError, match="is a sampler of CLD"):
        subject.pipeline(None, "symmetric_splitting", 25)


def test_parts_are_of_one_model_each():
    preset = PRESETS["cpu"]
    assert list(preset.parts("start")) == [str(preset.started)]
    assert list(preset.parts("network")) == list(map(str, preset.networks))
    parts = preset.parts("sample")
    assert len(parts) == sum(len(names) for _, names in preset.sampled)
    assert all(len(names) == 1 for part in parts.values() for _, names in part.sampled)
    gpu = PRESETS["gpu"]
    assert [part.subjects for part in gpu.parts("train").values()] == [(s,) for s in gpu.subjects]
