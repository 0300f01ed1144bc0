"""Published models as tests make, import and write them."""

import flax.traverse_util
import numpy as np
import torch_writer

from configs.default import get_config
from experiments.build import pipelines
from experiments.build.published import open_
from experiments.commands import import_weights
from experiments.commands.request import Request
from experiments.runs.folder import flatten
from models import published
from models.published import base


def config_of(found, **fields):
    """The config of a published model, with fields that the user gives."""
    config = get_config()
    with config.unlocked(), config.ignore_type():
        for field, value in (found.assumed | found.fields | fields).items():
            *sections, name = field.split(".")
            part = config
            for section in sections:
                part = part[section]
            part[name] = value
    return config


def load(source, **fields):
    """(format, what it found, config, parameters) of a source."""
    form, found = published.identify(source)
    config = config_of(found, **fields)
    return form, found, config, published.params(form, found.arrays, config)


def written(form, config, params):
    """The tensors and the options that a format writes for a network with these parameters."""
    bare = published.skeleton(config)
    arrays = base.extract(params, form.table(bare)) | form.constants(bare)
    return arrays, form.options(bare, flatten(config.to_dict()))


def drawn(config, seed=0):
    """Random parameters of the config's network, none of them zero."""
    bare = published.skeleton(config)
    random = np.random.default_rng(seed)

    def draw(place, shape):
        return np.float32(place[-1] == "scale") + 0.1 * random.standard_normal(shape, np.float32)

    made = {place: draw(place, leaf.shape) for place, leaf in bare.shapes.items()}
    return flax.traverse_util.unflatten_dict(made)


def assert_bits(arrays, expected):
    """The same tensors, to the last bit."""
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def draw(model):
    """Gives a model of PyTorch random weights, none of them zero."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))


def saved(model, folder):
    """The source of a model of diffusers, saved in a folder."""
    model.eval().save_pretrained(folder)
    return published.read(folder)


def write(folder, form, config, params):
    """Writes a folder of a format."""
    folder.mkdir(parents=True)
    about = published.base.About(flatten(config.to_dict()))
    form.write(folder, *written(form, config, params), about)


def opened(kind, folder, form, config, params):
    """The model of diffusers from a folder that a format writes."""
    write(folder, form, config, params)
    return kind.from_pretrained(folder).eval()


def save(path, arrays):
    """A file of PyTorch with these tensors."""
    torch_writer.save_zip(path, {name: torch_writer.tensor(a) for name, a in arrays.items()})


def make_run(folder, path, **fields):
    """The run that mode import makes of a file, with fields that the user gives."""
    config = pipelines.with_overrides(open_(path).config(), fields)
    import_weights.run(Request(config, folder, str(path)))


def publish(path, form, **fields):
    """Writes a file of a format with the random weights of a small model."""
    config = config_of(published.Found({}, fields))
    save(path, written(published.FORMATS[form], config, drawn(config))[0])
