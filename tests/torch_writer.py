"""Writes files as PyTorch and NVIDIA's projects do, without either: their pickles, byte by byte."""

import io
import pickle
import zipfile
from dataclasses import dataclass

import ml_dtypes
import numpy as np

KINDS = {
    np.dtype(dtype): kind
    for kind, dtype in {
        "Half": np.float16,
        "BFloat16": ml_dtypes.bfloat16,
        "Float": np.float32,
        "Double": np.float64,
        "ComplexFloat": np.complex64,
        "Bool": np.bool_,
        "Char": np.int8,
        "Short": np.int16,
        "Int": np.int32,
        "Long": np.int64,
        "Byte": np.uint8,
    }.items()
}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Name(str):
    """A function or class by its full name, "module.name". It is written, and need not exist."""

    def __call__(self):
        raise NotImplementedError


@dataclass(eq=False)
class Call:
    """An object that is made by a call, with its state and the entries of a dict if any."""

    name: str
    args: tuple = ()
    state: object = None
    items: dict | None = None
    is_new: bool = False  # made by cls.__new__(cls, *args)


HOOKS = Call("collections.OrderedDict")


@dataclass(eq=False)
class Storage:
    """Numbers that tensors share, of the type of the array or a class of another name."""

    array: np.ndarray
    kind: str = ""


@dataclass(eq=False)
class Tensor:
    """A tensor by its storage, offset, shape and strides."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple


def tensor(array):
    """A tensor with a storage of its own."""
    array = np.asarray(array, order="C")
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(Storage(array.reshape(-1)), 0, array.shape, strides)


def rebuilt(value):
    """The call that makes a tensor."""
    where = (value.storage, value.offset, value.shape, value.strides)
    return Call("torch._utils._rebuild_tensor_v2", (*where, False, HOOKS))


def parameter(value):
    return Call("torch._utils._rebuild_parameter", (value, True, HOOKS))


class Pickler(pickle._Pickler):
    """Writes Names, Calls and Tensors, whose storages it gathers: {key: storage}."""

    def __init__(self, file, protocol, nested=False):
        super().__init__(file, protocol)
        self.storages, self.nested, self.kept = {}, nested, []

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            module, _, name = obj.rpartition(".")
            if self.proto >= 4:
                super().save(module)
                super().save(name)
                self.write(pickle.STACK_GLOBAL)
            else:
                self.write(f"c{module}\n{name}\n".encode())
        elif isinstance(obj, Call):
            items = None if obj.items is None else iter(obj.items.items())
            called, args = Name(obj.name), obj.args
            if obj.is_new:
                self.save(called)
                self.save(args)
                self.write(pickle.NEWOBJ)
                if items:
                    self._batch_setitems(items)
                if obj.state is not None:
                    self.save(obj.state)
                    self.write(pickle.BUILD)
            else:
                self.save_reduce(called, args, obj.state, None, items)
        elif isinstance(obj, Tensor):
            self.save(rebuilt(obj))
        elif isinstance(obj, Storage) and self.nested:
            self.save(nested(obj))
        else:
            self.kept.append(obj)  # keeps ids of temporary objects apart
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        found = [key for key, storage in self.storages.items() if storage is obj]
        key = found[0] if found else str(len(self.storages))
        self.storages[key] = obj
        kind = obj.kind or f"torch.{KINDS[obj.array.dtype]}Storage"
        return ("storage", Name(kind), key, "cpu", obj.array.size)


def pickled(tree, protocol=2, nested=False):
    """The pickle of a tree, and its storages by key."""
    file = io.BytesIO()
    pickler = Pickler(file, protocol, nested)
    pickler.dump(tree)
    return file.getvalue(), pickler.storages


def save_zip(path, tree, protocol=2, compression=zipfile.ZIP_STORED):
    """torch.save(tree, path)."""
    content, storages = pickled(tree, protocol)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        for key, storage in storages.items():
            archive.writestr(f"archive/data/{key}", storage.array.tobytes())
        archive.writestr("archive/version", "3\n")


def legacy(tree, protocol=2):
    """torch.save(tree, file, _use_new_zipfile_serialization=False), the file's bytes."""
    content, storages = pickled(tree, protocol)
    system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(value, protocol) for value in (MAGIC, PROTOCOL, system)]
    parts += [content, pickle.dumps(sorted(storages), protocol)]
    for key in sorted(storages):
        array = storages[key].array
        parts += [array.size.to_bytes(8, "little"), array.tobytes()]
    return b"".join(parts)


def nested(storage):
    """A storage in a plain pickle: the legacy file of the storage alone, as bytes."""
    return Call("torch.storage._load_from_bytes", (legacy(storage),))


def persistent(class_name, arrays=None, modules=None, buffers=None, args=(), **kwargs):
    """A network of NVIDIA's, whose source would end the process if it ran."""
    meta = {
        "type": "class",
        "version": 6,
        "module_src": "raise SystemExit('source of a stranger')\n" * 999,
        "class_name": class_name,
        "state": module_state(arrays, modules, buffers)
        | {"_init_args": args, "_init_kwargs": kwargs},
    }
    return Call("torch_utils.persistence._reconstruct_persistent_obj", (meta,))


def module_state(arrays=None, modules=None, buffers=None):
    """What a torch.nn.Module keeps in its __dict__."""
    parameters = {name: parameter(tensor(array)) for name, array in (arrays or {}).items()}
    return {
        "training": False,
        "_parameters": Call("collections.OrderedDict", items=parameters | {"absent": None}),
        "_buffers": {name: tensor(array) for name, array in (buffers or {}).items()},
        "_non_persistent_buffers_set": set(),
        "_modules": (modules or {}) | {"missing": None},
        "_forward_hooks": Call("collections.OrderedDict"),
    }


def network(state, buffers=()):
    """The network of a state dict as NVIDIA saves it: a persistent object for each module.

    Args:
        state: arrays by name.
        buffers: the last parts of the names of the buffers among them.
    """
    inner = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        inner.setdefault(first, {})[rest] = value
    own = {name: parts.pop("") for name, parts in inner.items() if "" in parts}
    modules = {name: network(parts, buffers) for name, parts in inner.items() if parts}
    unchanged = {name: own.pop(name) for name in buffers if name in own}
    return persistent("Module", own, modules, unchanged, (8,), label_dim=3)
