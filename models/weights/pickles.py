"""A reader of pickles that runs none of their code.

A pickle is a program for a small stack machine. Here that machine knows plain data alone. Where the
program names a function or a class, it gets a Record with the name. Where it calls one, a table of
constructors of this package makes the result, and for a name that is not in the table the result is
a Record of the call. Nothing is imported, and no method of an object is looked up. pickle.Unpickler
does look up methods (__setstate__) and sets attributes, whatever its find_class answers.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LARGE = 4096
"""Bytes from this length on stay in the file, as a memoryview."""

RENAMED = {"__builtin__.": "builtins.", "copy_reg.": "copyreg.", "numpy.core.": "numpy._core."}
"""Modules of older versions of Python and NumPy."""

PROGRAMS = (
    *("os.", "posix.", "nt.", "sys.", "subprocess.", "pty.", "runpy.", "shutil.", "socket."),
    *("ctypes.", "importlib.", "webbrowser.", "builtins.eval", "builtins.exec"),
    *("builtins.open", "builtins.compile", "builtins.__import__", "builtins.breakpoint"),
)
"""Names that no weights need. A file that names one is hostile, and is refused as a whole."""

VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
COLLECTED = {
    "TUPLE": tuple,
    "LIST": list,
    "FROZENSET": frozenset,
    "DICT": lambda values: dict(_pairs(values)),
    "POP_MARK": None,
}
MARK = object()


class UnreadableError(ValueError):
    """A file holds something that cannot be read; the message is a clause about the file."""


@dataclass(eq=False)
class Record:
    """A name in a pickle, or the object that a call of that name would have made.

    Attributes:
        name: the full name, such as "posix.system".
        args: positional arguments of the call; None if the file names it without a call.
        kwargs: keyword arguments of the call.
        state: what the pickle sets on the object, in most cases its attributes by name.
        items: what the pickle adds to the object: values, or pairs of a key and a value.
    """

    name: str
    args: tuple[Any, ...] | None = field(default=None, repr=False)
    kwargs: dict[str, Any] = field(default_factory=dict, repr=False)
    state: Any = field(default=None, repr=False)
    items: list[Any] = field(default_factory=list, repr=False)


Calls = Mapping[str, Callable[..., Any]]
"""Constructors by full name. "NAME.__setstate__" takes the Record of a call of NAME and its state,
and returns what takes the place of that Record."""


class Cursor:
    """A position in bytes, with the methods of a file that pickletools uses."""

    def __init__(self, data: memoryview | bytes) -> None:
        self.data, self.position = memoryview(data).cast("B"), 0

    def take(self, size: int) -> memoryview:
        """The next `size` bytes, which stay where they are.

        Raises:
            UnreadableError: fewer are left.
        """
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise UnreadableError(f"it ends {self.position - len(self.data)} bytes early")
        return self.data[start : self.position]

    def read(self, size: int) -> bytes:
        return bytes(self.take(min(size, len(self.data) - self.position)))

    def readline(self) -> bytes:
        line = b""
        while not line.endswith(b"\n") and (part := self.read(LARGE)):
            end = part.find(b"\n") + 1 or len(part)
            self.position -= len(part) - end
            line += part[:end]
        return line

    def tell(self) -> int:
        return self.position


def load(cursor: Cursor, calls: Calls, storage: Callable[[Any], Any] | None = None) -> Any:
    """The data of the pickle at the cursor, which moves to the pickle's end.

    Args:
        cursor: where the pickle begins.
        calls: what is made of the calls in it.
        storage: what a persistent id stands for.

    Raises:
        ValueError, LookupError, TypeError: the pickle is damaged, or holds something unreadable.
    """
    machine = _Machine(calls, storage)
    for opcode, value, _ in pickletools.genops(cursor):  # pyright: ignore
        if isinstance(value, bytes) and len(value) >= LARGE:
            value = cursor.data[cursor.position - len(value) : cursor.position]
        machine.step(opcode.name, value)
    return machine.pop()


class _Machine:
    def __init__(self, calls: Calls, storage: Callable[[Any], Any] | None) -> None:
        self.calls, self.storage = calls, storage
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, value: Any) -> None:
        """Runs one instruction: those that only make data here, the others below."""
        if name in VALUES:
            self.stack.append(value)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in TUPLES:
            self.stack.append(tuple([self.pop() for _ in range(TUPLES[name])][::-1]))
        elif name in COLLECTED:
            values, make = self.collect(), COLLECTED[name]
            if make:
                self.stack.append(make(values))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if value is None else value] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[value])
        elif name not in ("PROTO", "FRAME", "STOP"):
            self.other(name, value)

    def other(self, name: str, value: Any) -> None:
        match name:
            case "MARK":
                self.stack.append(MARK)
            case "POP":
                self.stack.pop()
            case "DUP":
                self.stack.append(self.stack[-1])
            case "APPEND" | "SETITEM":
                values = [self.pop() for _ in range(1 + (name == "SETITEM"))][::-1]
                _add(self.stack[-1], name, values)
            case "APPENDS" | "SETITEMS" | "ADDITEMS":
                values = self.collect()
                _add(self.stack[-1], name, values)
            case "GLOBAL":
                self.stack.append(_named(value.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                last, module = self.pop(), self.pop()
                self.stack.append(_named(f"{module}.{last}"))
            case "REDUCE" | "NEWOBJ":
                args, called = self.pop(), self.pop()
                self.stack.append(self.call(called, args))
            case "NEWOBJ_EX":
                kwargs, args, called = self.pop(), self.pop(), self.pop()
                self.stack.append(self.call(called, args, kwargs))
            case "INST":
                self.stack.append(self.call(_named(value.replace(" ", ".", 1)), self.collect()))
            case "OBJ":
                called, *args = self.collect()
                self.stack.append(self.call(called, args))
            case "BUILD":
                self.build(self.pop())
            case "BINPERSID" | "PERSID":
                if self.storage is None:
                    raise UnreadableError("it refers to data outside of it")
                self.stack.append(self.storage(self.pop() if value is None else value))
            case _:
                raise UnreadableError(f"it uses the instruction {name}, which no weights need")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise UnreadableError("its instructions are out of order")
        return value

    def collect(self) -> list[Any]:
        """The values above the last mark."""
        values = []
        while (value := self.stack.pop()) is not MARK:
            values.append(value)
        return values[::-1]

    def call(self, called: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        if not isinstance(called, Record) or not isinstance(args, tuple | list):
            raise UnreadableError(f"it calls a {type(called).__name__}")
        if called.args is not None:
            return Record(f"{called.name}(...)", tuple(args), kwargs or {})
        if called.name not in self.calls:
            return Record(called.name, tuple(args), kwargs or {})
        return self.calls[called.name](*args, **kwargs or {})

    def build(self, state: Any) -> None:
        """Sets the state of the object on top. Attributes of a dict, such as versions, are lost."""
        target = self.stack[-1]
        if isinstance(target, dict):
            return
        if not isinstance(target, Record):
            raise UnreadableError(f"it sets attributes of a {type(target).__name__}")
        target.state = state
        finish = self.calls.get(f"{target.name}.__setstate__")
        if finish is None or target.args is None:
            return
        self.stack[-1] = finish(target, state)
        for key in reversed(self.memo):  # it was memorised just before its state
            if self.memo[key] is target:
                self.memo[key] = self.stack[-1]
                break


def _named(name: str) -> Record:
    for old, new in RENAMED.items():
        name = name.replace(old, new, 1) if name.startswith(old) else name
    if name.startswith(PROGRAMS):
        raise UnreadableError(f"it asks for {name}, which runs programs (it did not run)")
    return Record(name)


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))


def _add(target: Any, name: str, values: list[Any]) -> None:
    """Adds values to a list or a set, pairs to a dict, and any of them to a Record."""
    if isinstance(target, Record):
        target.items += _pairs(values) if name.startswith("SET") else values
    elif isinstance(target, dict) and name.startswith("SET"):
        target |= _pairs(values)
    elif isinstance(target, list) and name.startswith("APPEND"):
        target += values
    elif isinstance(target, set) and name == "ADDITEMS":
        target |= set(values)
    else:
        raise UnreadableError(f"it adds to a {type(target).__name__}")
