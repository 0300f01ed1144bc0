"""Folders of published files: of diffusers, or of files of weights alone.

A folder of diffusers is a network with its config.json, or a pipeline of several parts.

    network:   config.json, diffusion_pytorch_model.safetensors
    pipeline:  model_index.json, unet/ or transformer/ or vae/ (networks), scheduler/
    of 2022:   model_index.json, config.json, diffusion_pytorch_model.bin, scheduler_config.json

The weights are a file of safetensors or PyTorch, or several with an index of their tensors.
"""

import json
from pathlib import Path
from typing import Any

from models import weights
from models.published.base import CHECKPOINT, OPTIONS, WEIGHTS, Arrays, Source
from models.weights import safetensors_files

NETWORKS = ("unet", "transformer", "vae")
"""Folders of a pipeline that hold a network, the one that makes the samples first."""
NAME = "diffusion_pytorch_model"
FILES = tuple(
    f"{NAME}{variant}{ending}{index}"
    for variant in ("", ".fp16")
    for ending in (".safetensors", ".bin")
    for index in ("", ".index.json")
)
"""Names of the weights, the preferred ones first."""
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".msgpack")
"""Endings of files of weights."""

OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention by their names until 2023."""


def is_weights(path: Path) -> bool:
    """True for the weights of a network, with its config.json beside them."""
    return path.name.startswith(NAME) and (path.parent / "config.json").exists()


def read(path: Path) -> Source:
    """The network in a folder, with the options of the other parts of its pipeline.

    A network's folder inside a pipeline's is read with the other parts of that pipeline. A folder
    without configs of diffusers is its file of weights; the content of several is by their names.

    Raises:
        ValueError: no network, no weights, or files that are damaged or missing.
    """
    path = path if path.is_dir() else path.parent
    if not any((path / name).exists() for name in ("config.json", "model_index.json")):
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if len(files) == 1:
            return read_file(files[0])
        if files:
            return Source(path, {file.name: weights.read(file) for file in files})
    network = _network(path)
    options = _read_json(network / "config.json")
    if "_class_name" not in options:
        raise ValueError(
            f"{network / 'config.json'} has no _class_name, as that of a network of diffusers has: "
            "give a folder that save_pretrained wrote"
        )
    whole = path.parent if (path.parent / "model_index.json").exists() else path
    return Source(path, _weights(network), options, _parts(whole, network))


def write(folder: Path, arrays: Arrays, options: dict[str, Any]) -> Path:
    """Writes a network's weights and config.json into a folder, which it returns."""
    (folder / "config.json").write_text(json.dumps(options, indent=2) + "\n")
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    with (folder / FILES[0]).open("wb") as file:
        safetensors_files.write(file, shapes, arrays.values(), {"format": "pt"})
    return folder


def read_file(path: Path) -> Source:
    """A file of weights, with its metadata or with the options.json that mode export writes."""
    content, options = weights.read(path), path.with_name(OPTIONS)
    if path.suffix == ".safetensors":
        return Source(path, content, safetensors_files.metadata(path))
    told = path.name in (WEIGHTS, CHECKPOINT) and options.exists()
    return Source(path, content, _read_json(options) if told else {})


def today(name: str) -> str:
    """A tensor's name today, for one of a layer of attention until 2023."""
    *modules, layer, leaf = ["", *name.split(".")]
    if "attentions" not in modules:
        return name
    return ".".join([*modules[1:], OLD.get(layer, layer), leaf])


def _network(path: Path) -> Path:
    """The folder of the network: a pipeline of several has the one that makes the samples."""
    if (path / "config.json").exists():
        return path
    if not (path / "model_index.json").exists():
        raise ValueError(
            f"{path} is no folder of diffusers: there is no config.json or model_index.json in it"
        )
    found = [path / name for name in NETWORKS if (path / name / "config.json").exists()]
    if not found:
        kind = _read_json(path / "model_index.json").get("_class_name")
        raise ValueError(
            f"{path} is a pipeline of diffusers ({kind}) without a network in "
            f"{', '.join(f'{name}/' for name in NETWORKS)}: those can be read here"
        )
    return found[0]


def _parts(path: Path, network: Path) -> dict[str, dict[str, Any]]:
    """The options of the pipeline ("pipeline"), its scheduler and its other networks."""
    files = {name: path / name / "config.json" for name in NETWORKS if path / name != network}
    files |= {"pipeline": path / "model_index.json"}
    places = path / "scheduler", path  # an early upload's is beside model_index.json
    schedulers = [place / "scheduler_config.json" for place in places]
    files |= {"scheduler": next((f for f in schedulers if f.exists()), schedulers[0])}
    return {name: _read_json(file) for name, file in files.items() if file.exists()}


def _weights(folder: Path) -> Any:
    """The content of the weights."""
    name = next((name for name in FILES if (folder / name).exists()), None)
    if name is None:
        raise ValueError(f"{folder} has no weights: there is no {NAME}.safetensors or .bin in it")
    if not name.endswith(".index.json"):
        return weights.read(folder / name)
    places = _read_json(folder / name).get("weight_map")
    if not isinstance(places, dict) or any(Path(str(f)).name != f for f in places.values()):
        raise ValueError(f"{folder / name} must name a file of this folder for every tensor")
    files = sorted(set(places.values()))
    if missing := [file for file in files if not (folder / file).exists()]:
        raise ValueError(f"{folder} lacks parts of the weights: {', '.join(missing)}")
    read = {file: weights.state_dict(weights.read(folder / file)) for file in files}
    if lost := sorted(name for name, file in places.items() if name not in read[file]):
        raise ValueError(f"{folder / name} names tensors that the files do not have: {lost}")
    return {name: read[file][name] for name, file in places.items()}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{file} is no JSON: give a whole file ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object, not {type(content).__name__}")
    return content
