import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch_writer
from golden import FOLDER
from safetensors.numpy import load_file, save_file

from models import published, weights
from models.published.diffusers import folders

TINY = FOLDER / "diffusers_ddpm_tiny"
SAFETENSORS = "diffusion_pytorch_model.safetensors"
SCHEDULER = {"_class_name": "DDPMScheduler", "beta_end": 0.03}


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def assert_tiny(source):
    expected = load_file(TINY / SAFETENSORS)
    found = weights.state_dict(source.content)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert source.options == json.loads((TINY / "config.json").read_text())


@pytest.mark.parametrize("place", ["", SAFETENSORS])
def test_a_network_alone(place):
    source = published.read(TINY / place)
    assert_tiny(source)
    assert source.parts == {}
    assert source.path == TINY


@pytest.mark.parametrize("place", ["", "unet", f"unet/{SAFETENSORS}"])
def test_a_pipeline(tmp_path, place):
    shutil.copytree(TINY, tmp_path / "unet")
    write(tmp_path / "model_index.json", {"_class_name": "DDPMPipeline"})
    write(tmp_path / "scheduler/scheduler_config.json", SCHEDULER)
    write(tmp_path / "vae/config.json", {"_class_name": "AutoencoderKL"})
    source = published.read(tmp_path / place)
    assert_tiny(source)
    assert source.parts == {
        "pipeline": {"_class_name": "DDPMPipeline"},
        "scheduler": SCHEDULER,
        "vae": {"_class_name": "AutoencoderKL"},
    }


def test_the_layout_of_2022(tmp_path):
    """Everything lies in one folder, and the weights are a file of PyTorch."""
    arrays = load_file(TINY / SAFETENSORS)
    shutil.copy(TINY / "config.json", tmp_path)
    torch_writer.save_zip(tmp_path / "diffusion_pytorch_model.bin", arrays)
    write(tmp_path / "model_index.json", {"_class_name": "DDPMPipeline"})
    write(tmp_path / "scheduler_config.json", SCHEDULER)
    source = published.read(tmp_path)
    assert_tiny(source)
    assert source.parts == {"pipeline": {"_class_name": "DDPMPipeline"}, "scheduler": SCHEDULER}


@pytest.fixture
def shards(tmp_path):
    """A folder with the tiny network in two files, and the place of each tensor."""
    arrays = load_file(TINY / SAFETENSORS)
    parts = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    places = {name: parts[i % 2] for i, name in enumerate(arrays)}
    for part in parts:
        save_file({n: a for n, a in arrays.items() if places[n] == part}, tmp_path / part)
    shutil.copy(TINY / "config.json", tmp_path)
    write(tmp_path / f"{SAFETENSORS}.index.json", {"weight_map": places})
    return tmp_path, places


def test_weights_in_several_files(shards):
    assert_tiny(published.read(shards[0]))


def test_several_files_must_be_whole(shards):
    folder, places = shards
    index = folder / f"{SAFETENSORS}.index.json"
    write(index, {"weight_map": places | {"other.weight": places["conv_in.weight"]}})
    with pytest.raises(ValueError, match=r"names tensors .*\['other.weight'\]"):
        published.read(folder)
    write(index, {"weight_map": places | {"conv_in.weight": "../secret.safetensors"}})
    with pytest.raises(ValueError, match="must name a file of this folder"):
        published.read(folder)
    write(index, {"weight_map": places})
    (folder / places["conv_in.weight"]).unlink()
    with pytest.raises(ValueError, match="lacks parts of the weights: diffusion_pytorch_model-0"):
        published.read(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is no folder of diffusers: there is no config.json or model_index.json"),
        ({"config.json": {"model": {}}}, "has no _class_name"),
        ({"config.json": {"_class_name": "UNet2DModel"}}, "has no weights"),
        ({"config.json": ["UNet2DModel"]}, "must hold a JSON object, not list"),
        (
            {"model_index.json": {"_class_name": "AudioPipeline"}},
            r"\(AudioPipeline\) without",
        ),
    ],
)
def test_folders_that_are_no_models_are_refused(tmp_path, files, message):
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        published.read(tmp_path)


def test_a_damaged_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": ')
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        folders.read(tmp_path)


def test_a_file_that_does_not_exist_is_no_folder():
    with pytest.raises(OSError, match="no_such_file"):
        published.read(Path("tests/no_such_file.pth"))
