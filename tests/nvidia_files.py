"""Writes the pickles of EDM and EDM2: networks by module, with the arguments of constructors."""

import numpy as np
from torch_writer import Call, module_state, persistent, pickled

BUFFERS = ("resample_filter", "freqs", "phases", "u")
BLOCKS = ("enc", "dec")


def module(state, described, path=""):
    """The module of a state dict, as NVIDIA saves it.

    Args:
        state: arrays by name.
        described: {path: (name of its class, arguments)} of modules; others are plain ones.
        path: names of the modules around it, each followed by a dot.
    """
    inner = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        inner.setdefault(first, {})[rest] = value
    own = {name: parts.pop("") for name, parts in inner.items() if "" in parts}
    modules = {n: module(parts, described, f"{path}{n}.") for n, parts in inner.items() if parts}
    buffers = {name: own.pop(name) for name in BUFFERS if name in own}
    if path.split(".")[-2:-1] and path.split(".")[-2] in BLOCKS:
        kept = module_state(own, modules, buffers)
        return Call("torch.nn.modules.container.ModuleDict", (), kept, is_new=True)
    name, arguments = described.get(path, ("Module", {}))
    return persistent(name, own, modules, buffers, **arguments)


def easy_dict(**items):
    return Call("dnnlib.util.EasyDict", (), None, items, is_new=True)


def save(path, state, described, encoder=None, **loss):
    """Writes a snapshot of a run, with the averaged network and its loss."""
    kind = loss.pop("name", "EDMLoss")
    content = {
        "ema": module(state, described),
        "loss_fn": persistent(kind, **loss),
        "augment_pipe": None,
        "dataset_kwargs": easy_dict(path="data.zip", resolution=np.int64(16)),
    }
    if encoder:
        content = easy_dict(encoder=encoder, **content)
    path.write_bytes(pickled(content, 4, nested=True)[0])
    return path
