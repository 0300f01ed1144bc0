"""Reading tests/golden: numbers of the published implementations, channels first."""

import json
from pathlib import Path

import ml_collections
import numpy as np

TABLES = ("embedding_table.weight", "label_emb.weight", "positional_embedding")
FOLDER = Path(__file__).parent / "golden"


def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def channels_last(array):
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def config(arrays):
    return ml_collections.ConfigDict(json.loads(str(arrays["config"])))


def state_dict(arrays):
    """The weights that the published network had, made by the recipe that made them there."""
    random = np.random.RandomState(int(arrays["seed"]))
    weights = {}
    for name, shape in json.loads(str(arrays["parameters"])):
        value = random.standard_normal(shape).astype("f4")
        if name == "time_proj.weight":
            value *= 16
        elif len(shape) == 0:
            value = 0.5 + 0.1 * value
        elif name.endswith(TABLES):
            value *= 0.7
        elif len(shape) > 1:
            value *= 0.7 / np.sqrt(np.prod(shape[1:]))
        elif name.endswith(".W"):
            value *= 16
        elif name.endswith("weight"):
            value = 1 + 0.1 * value
        else:
            value *= 0.1
        weights[name] = value
    return weights


def edm_config(arrays):
    """Our fields for EDM's options."""
    options = config(arrays)
    model = {
        "nf": options.model_channels,
        "ch_mult": options.channel_mult,
        "num_res_blocks": options.num_blocks,
        "attn_resolutions": options.attn_resolutions,
        "class_conditional": options.label_dim > 0,
        "augment_dim": options.get("augment_dim", 0),
    }
    if options.model_type == "DhariwalUNet":
        model["name"] = "adm"
    else:
        model |= {
            "name": "ncsnpp",
            "fir": len(options.resample_filter) > 2,
            "fir_kernel": options.resample_filter,
            "progressive_input": {"standard": "none"}.get(options.encoder_type, "residual"),
            "embedding_type": options.embedding_type,
            "log_labels": False,
            "scale_by_sigma": False,
        }
    data = {
        "image_size": options.img_resolution,
        "num_channels": options.img_channels,
        "num_classes": options.label_dim,
        "centered": True,
    }
    return ml_collections.ConfigDict({"model": model, "data": data})


def edm_state_dict(arrays):
    """As state_dict, with the buffers."""
    buffers = {name[7:]: value for name, value in arrays.items() if name.startswith("buffer/")}
    return state_dict(arrays) | buffers


def edm_preconditioning(arrays):
    """c_skip, c_out, c_in and c_noise of Karras et al. 2022, Table 1, at the file's sigmas."""
    sigma = arrays["sigma"].astype(np.float64)
    if config(arrays).precond == "EDMPrecond":
        scale = np.sqrt(sigma**2 + 0.25)
        return 0.25 / scale**2, 0.5 * sigma / scale, 1 / scale, np.log(sigma) / 4
    beta_min, beta_d = 0.1, 19.9
    t = (np.sqrt(beta_min**2 + 2 * beta_d * np.log1p(sigma**2)) - beta_min) / beta_d
    return np.ones_like(sigma), -sigma, 1 / np.sqrt(sigma**2 + 1), 999 * t


def assert_samples_close(values, references, tolerance):
    """Each sample within `tolerance` of the largest value of its reference."""
    assert np.shape(values) == np.shape(references)
    for value, reference in zip(values, references, strict=True):
        assert_close(value, reference, tolerance)


def assert_close(value, reference, tolerance):
    """Within `tolerance` of the reference's largest value."""
    error = np.abs(np.asarray(value) - reference).max() / np.abs(reference).max()
    assert error <= tolerance, f"off by {error:.2e} relative"
