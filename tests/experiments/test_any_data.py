"""Every combination of data and condition that makes sense trains and samples; others are refused.

Nothing is compiled: a combination is read from files, and the training step and the score of
samples are traced. Together the tests have each condition with each network, each shape and each
kind of values; and each condition that a source of data can have is in its batches.
"""

import csv
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from configs import default
from experiments.build import pipelines, tasks
from experiments.build.components import optimization
from experiments.commands import train
from experiments.data.prepare.listing import list_images
from experiments.data.prepare.make import make
from experiments.data.prepare.picture import Transform
from experiments.training.state import abstract_state
from experiments.training.step import make_train_step

N = 24
SHAPES = {"vector": (5,), "series": (16, 2), "image": (8, 16, 3), "volume": (8, 8, 8, 2)}
DTYPES = ("float", "uint8", "uint16")
UNET = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": ()}
NETWORKS = {
    "ncsnpp": UNET | {"scale_by_sigma": False},
    "adm": UNET,
    "dit": {"hidden_size": 16, "depth": 1, "num_heads": 2, "patch_size": 2},
    "mlp": {"nf": 8, "num_res_blocks": 1},
}
CONDITIONS = {
    "none": {},
    "class": {"model.class_conditional": True, "data.num_classes": 2},
    "attributes": {"model.attributes": (2, 3)},
    "vector": {"model.vector_dim": 2},
    "bytes": {"model.text": "bytes", "model.text_length": 16, "model.text_width": 8},
    "embeddings": {"model.text": "embeddings", "model.text_width": 4},
    "image": {"image_condition.name": "data", "image_condition.channels": 1},
    "grey": {"image_condition.name": "grey"},
    "low_res": {"image_condition.name": "low_res"},
    "masked": {"image_condition.name": "masked"},
    "missing": {"data.missing": "mask"},
}
SEEN = ("image", "grey", "low_res", "masked")  # beside x
SIDED = ("series", "image", "volume")
OF_SIDES = ("ncsnpp", "adm", "dit")
RUN = [  # each condition with each shape, network and kind of values, but not all of them at once
    (shape, DTYPES[(i + 2 * j) % 3], OF_SIDES[(i + j) % 3], condition)
    for i, shape in enumerate(SIDED)
    for j, condition in enumerate(CONDITIONS)
    if condition != "grey"
]
RUN += [("vector", "float", "mlp", name) for name in CONDITIONS if name not in SEEN]
RUN += [(shape, DTYPES[1 + k % 2], OF_SIDES[k], "grey") for k, shape in enumerate(SIDED)]
REFUSED = [
    *(
        ("vector", "float", name, "none", rf"'{name}' does not go with .* \(5,\): choose 'mlp'")
        for name in OF_SIDES
    ),
    *((shape, "float", "mlp", "none", "'mlp' does not go with .*: choose 'ncs") for shape in SIDED),
    ("vector", "float", "mlp", "image", "'mlp' sees no images beside x: take 'ncsnpp'"),
    ("vector", "float", "mlp", "grey", "the data have no colours .*: take another"),
    ("vector", "float", "mlp", "low_res", "are vectors .* without sides: take data with sides"),
    ("vector", "float", "mlp", "masked", "are vectors .* without sides: take data with sides"),
    *((shape, "float", "adm", "grey", "the data are floats: take 'data'") for shape in SIDED),
]
READ = {  # what a batch has of each condition; the others are made of the samples
    "class": "class_labels",
    "attributes": "attributes",
    "vector": "vectors",
    "bytes": "text",
    "embeddings": "text",
    "image": "raw_images",
}
OF_IMAGES = ("none", "class", "bytes", "grey", "low_res", "masked")  # files say these
SOURCES = [
    *((source, name) for source in ("folder", "zip", "prepared") for name in OF_IMAGES),
    *(("npz", name) for name in CONDITIONS if name != "missing"),
    *(("table", name) for name in CONDITIONS if name not in (*SEEN, "embeddings")),
]


def arrays(shape, dtype, condition):
    """The arrays of a file with the conditions beside the samples, by their names."""
    random = np.random.RandomState(0)
    found = {"data": random.randn(N, *shape).astype(np.float32)}
    if dtype != "float":
        found["data"] = random.randint(256, size=(N, *shape)).astype(dtype)
    whole = {
        "class": {"labels": np.arange(N) % 2},
        "attributes": {"condition_attributes": np.stack([np.arange(N) % n for n in (2, 3)], 1)},
        "vector": {"condition_vector": random.randn(N, 2)},
        "bytes": {"captions": np.array([f"caption {k}" for k in range(N)])},
        "embeddings": {"condition_embeddings": random.randn(N, 4).astype(np.float32)},
        "image": {"condition_image": random.randn(N, *shape[:-1], 1).astype(np.float32)},
        "missing": {"mask": random.randint(2, size=(N, *shape)) | (np.arange(shape[-1]) == 0)},
    }
    return found | whole.get(condition, {})


def config_of(path, source, shape, dtype, network, condition, **fields):
    """The config as a user writes it."""
    config = default.get_config()
    config.data.update(dataset=source, path=str(path), shape=shape)
    if source == "arrays":
        config.data.dtype = dtype
    with config.unlocked():
        config.model.update(name=network, dropout=0.0, **NETWORKS[network])
    config.training.update(batch_size=4, at_end=())
    config.optim.warmup = 0
    dropped = {} if condition in ("none", "missing") else {"model.label_dropout": 0.1}
    config.update_from_flattened_dict(CONDITIONS[condition] | dropped | fields)
    return config


def read(config, folder):
    """The task and its data set, and its first 4 training samples with their conditions."""
    training = optimization.training(config)
    task, dataset = train.prepared(config, folder, tasks.task(config), training, None)
    first = jax.tree.map(lambda rows: np.asarray(rows[np.arange(4)]), task.values(dataset, "train"))
    return task, dataset, first


def trace(config, folder):
    """Traces a training step and the score of samples, with the conditions that these have."""
    mesh = optimization.mesh(config)
    task, dataset, first = read(config, folder)
    state = abstract_state(task, 0, mesh)
    step = make_train_step(task, optimization.training(config), mesh)
    jax.eval_shape(step, state, *jax.tree.map(lambda rows: rows[None], first))
    model = pipelines.untrained(config).replace(dataset=lambda: dataset)
    model = model.replace(conditions=task.model.conditions).with_scaling(task.scaling)
    given = model.sample_conditions(np.arange(2))
    x = np.zeros((2, *model.shape), np.float32)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state.params)
    made = jax.eval_shape(
        lambda params: model.conditional_score(params, given)(x, np.ones(2, np.float32)), params
    )
    assert made.shape == x.shape


def image_files(folder):
    """PNG files in a folder for each class, with a caption each."""
    for k, pixels in enumerate(arrays(SHAPES["image"], "uint8", "none")["data"]):
        path = folder / ("кошка", "犬")[k % 2] / f"an image {k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        path.with_suffix(".txt").write_text(f"caption {k}", encoding="utf-8")
    return folder


def file_of(source, condition, folder):
    """Writes what the source reads; returns its path, its name and the config's fields for it."""
    path = folder / f"数 data.{source}"
    if source in ("folder", "zip", "prepared"):
        files = image_files(folder / "images")
        if source == "folder":
            return files, "folder", {}
        if source == "zip":
            return shutil.make_archive(str(folder / "数"), "zip", files), "folder", {}
        make(list_images(files, "", "", ""), path, Transform((8, 16)), 0.3)
        return path, "prepared", {}
    if source == "npz":
        np.savez(path, **arrays(SHAPES["image"], "uint8", condition))
        return path, "npz", {}
    return table(path.with_suffix(".csv"), condition)


def table(path, condition):
    """A table of 5 columns of numbers, and of what the condition needs."""
    rows = arrays(SHAPES["vector"], "float", "none")["data"].astype(str)
    if condition == "missing":
        rows[::2, 1] = ""
    more = {
        "class": ["kind"],
        "attributes": ["colour", "size"],
        "vector": ["length", "mass"],
        "bytes": ["text"],
    }.get(condition, [])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*"abcde", *more])
        writer.writerows(
            [*row, *(str(k % (2 + j)) for j in range(len(more)))] for k, row in enumerate(rows)
        )
    fields = {
        "class": {"data.label_column": "kind"},
        "attributes": {"data.attribute_columns": tuple(more)},
        "vector": {"data.condition_columns": tuple(more)},
        "bytes": {"data.caption_column": "text"},
    }
    return path, "table", fields.get(condition, {})


def combination(tmp_path, shape, dtype, network, condition):
    path = tmp_path / "数 data.npz"
    np.savez(path, **arrays(SHAPES[shape], dtype, condition))
    trace(config_of(path, "arrays", SHAPES[shape], dtype, network, condition), tmp_path / "run")


@pytest.mark.thorough
@pytest.mark.parametrize(("shape", "dtype", "network", "condition"), RUN)
def test_combination_trains_and_samples(tmp_path, shape, dtype, network, condition):
    combination(tmp_path, shape, dtype, network, condition)


@pytest.mark.parametrize(("shape", "dtype", "network", "condition", "message"), REFUSED)
def test_combination_is_refused(tmp_path, shape, dtype, network, condition, message):
    with pytest.raises(ValueError, match=message):
        combination(tmp_path, shape, dtype, network, condition)


@pytest.mark.parametrize(("source", "condition"), SOURCES)
def test_a_batch_has_the_conditions_of_its_source(tmp_path, source, condition):
    path, name, fields = file_of(source, condition, tmp_path)
    shape, network = ("vector", "mlp") if source == "table" else ("image", "adm")
    dtype = "float" if source == "table" else "uint8"
    config = config_of(path, name, SHAPES[shape], dtype, network, condition, **fields)
    _, _, (values, conditions) = read(config, tmp_path / "run")
    assert values.shape == (4, *SHAPES[shape])
    assert list(conditions) == [READ[condition]] if condition in READ else not conditions
