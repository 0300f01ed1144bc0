"""Results of the calls in a pickle: data of Python, arrays of NumPy and tensors of PyTorch."""

import re
from typing import Any, NamedTuple

import numpy as np

from models.weights.dtypes import TORCH, TORCH_STORAGE
from models.weights.pickles import Calls, Record, UnreadableError


class Storage(NamedTuple):
    """The numbers of one or more tensors."""

    dtype: np.dtype
    data: memoryview | bytes


def storage_dtype(storage: Any) -> np.dtype:
    """The type of the numbers in a storage of PyTorch, from the Record of its class.

    Raises:
        UnreadableError: NumPy has no such numbers.
    """
    kind = storage.name.rpartition(".")[2].removesuffix("Storage")
    if kind not in TORCH_STORAGE:
        raise UnreadableError(
            f"it holds numbers of the type {storage.name}, which cannot be read: save them as "
            "floating-point numbers"
        )
    return TORCH[TORCH_STORAGE[kind]]


def _tensor(
    storage: Any,
    offset: int,
    shape: Any,
    strides: Any,
    requires_grad: bool = False,
    hooks: Any = None,
    changes: Any = None,
) -> np.ndarray:
    """A view of a storage. Offset and strides count numbers; changes are yet to be made."""
    if not isinstance(storage, Storage):
        raise UnreadableError(f"a tensor has a {type(storage).__name__} for its storage")
    dtype, size = storage.dtype, storage.dtype.itemsize
    strides = [size * stride for stride in strides]
    array = np.ndarray(shape, dtype, storage.data, size * offset, strides)  # checks the bounds
    array = array if dtype.isnative else array.astype(dtype.newbyteorder("="))
    for change in changes or ():
        array = {"conj": np.conj, "neg": np.negative}[change](array)
    return array


def _tensor_of_bytes(
    storage: Any,
    offset: int,
    shape: Any,
    strides: Any,
    requires_grad: bool,
    hooks: Any,
    dtype: Any,
    changes: Any = None,
) -> np.ndarray:
    """A tensor of a newer type of numbers, which its storage does not know."""
    name = dtype.name.removeprefix("torch.")
    if name not in TORCH:
        raise UnreadableError(f"it holds numbers of the type {dtype.name}, which cannot be read")
    return _tensor(Storage(TORCH[name], storage.data), offset, shape, strides, changes=changes)


def _subclass_tensor(function: Record, _: Any, args: Any, *__: Any) -> Any:
    """A tensor with attributes, or of a subclass: the tensor alone."""
    return CALLS.get(function.name, lambda *args: Record(function.name, args))(*args)


def _bytes(value: Any) -> bytes | memoryview:
    """Bytes, which Python 2 wrote as text."""
    return value.encode("latin-1") if isinstance(value, str) else memoryview(value)


def _decoded(text: str, encoding: str) -> bytes:
    """Bytes, which protocol 2 writes as text and a call that encodes it."""
    if encoding != "latin1":
        raise UnreadableError(f"it encodes a text as {encoding}")
    return text.encode(encoding)


def _numpy_dtype(record: Record, state: Any) -> np.dtype | Record:
    """A type of plain numbers or texts; a type of objects or of fields stays a Record."""
    kind = record.args[0] if record.args else None
    if isinstance(kind, Record):  # of ml_dtypes
        return TORCH.get(kind.name.rpartition(".")[2], record)
    if not re.fullmatch(r"[biufcSU]\d+", str(kind)):
        return record
    dtype = np.dtype(kind)
    return dtype.newbyteorder(state[1]) if state[1] in ("<", ">") else dtype


def _numpy_array(record: Record, state: Any) -> np.ndarray | Record:
    _, shape, dtype, fortran, data = state
    if not isinstance(dtype, np.dtype):
        return record
    return np.ndarray(shape, dtype, _bytes(data), order="F" if fortran else "C")


def _numpy_scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, np.dtype):
        return Record("numpy.generic", (dtype, data))
    return np.frombuffer(_bytes(data), dtype)[0]


def _numpy_from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray | Record:
    return _numpy_array(Record("numpy.ndarray", ()), (1, shape, dtype, order == "F", data))


def _module(meta: dict[str, Any]) -> Record:
    """An object of NVIDIA's persistence, whose source code in the file is left alone."""
    state = meta["state"]
    arguments = tuple(state.get("_init_args", ())), dict(state.get("_init_kwargs", {}))
    return Record(str(meta["class_name"]), *arguments, state)


def _first(value: Any, *_: Any) -> Any:
    return value


CALLS: Calls = {
    "builtins.bytearray": lambda data=b"": bytes(_bytes(data)),  # never of a length alone
    "builtins.bytes": lambda data=b"": bytes(_bytes(data)),
    "builtins.complex": complex,
    "builtins.dict": dict,
    "builtins.frozenset": frozenset,
    "builtins.list": list,
    "builtins.set": set,
    "builtins.tuple": tuple,
    "_codecs.encode": _decoded,
    "collections.OrderedDict": dict,
    "collections.defaultdict": lambda *_: {},
    "copyreg._reconstructor": lambda kind, _, state: Record(kind.name, (), state=state),
    "dnnlib.util.EasyDict": dict,
    "numpy.dtype": lambda *args: Record("numpy.dtype", args),
    "numpy.dtype.__setstate__": _numpy_dtype,
    "numpy._core.multiarray._reconstruct": lambda *_: Record("numpy.ndarray", ()),
    "numpy.ndarray.__setstate__": _numpy_array,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy._core.numeric._frombuffer": _numpy_from_buffer,
    "torch.Size": tuple,
    "torch.device": lambda *args: ":".join(map(str, args)),
    "torch._tensor._rebuild_from_type_v2": _subclass_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch_utils.persistence._reconstruct_persistent_obj": _module,
}
