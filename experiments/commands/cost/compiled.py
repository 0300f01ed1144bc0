"""Content of a compiled program, by XLA's text, and the time that a device needs at least.

The time is that of a roofline: the greater of the arithmetic at the device's peak and of its
memory's traffic at full speed. Operations that wait for each other take longer.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\(")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
CALLS = re.compile(r"(?:calls|to_apply)=%?([\w.-]+)")
ARRAY = re.compile(r"\b([a-z]+\d*)\w*\[([\d,]*)\](\{[^}]*\})?")
FAST = "S(1)"  # in a layout: an array in the memory of a TPU's core
COPIES = {"copy", "transpose"}
COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}
FREE = {  # they move nothing
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "iota"),
    *("call", "conditional", "while"),
}


class Chip(NamedTuple):
    """A device: its FLOP/s in bfloat16, and the bytes a second of its memory."""

    flops: float
    bandwidth: float


CHIPS = {
    "TPU v4": Chip(275e12, 1.23e12),
    "TPU v5 lite": Chip(197e12, 0.82e12),
    "TPU v5": Chip(459e12, 2.77e12),
    "TPU v6 lite": Chip(918e12, 1.64e12),
    "NVIDIA A100": Chip(312e12, 2.04e12),
    "NVIDIA H100": Chip(989e12, 3.35e12),
    "NVIDIA H200": Chip(989e12, 4.8e12),
}
"""Published figures by the start of JAX's device_kind."""
OTHERS = ("NVIDIA H100", "NVIDIA H200")  # shown beside the device that a program is compiled for


class Instruction(NamedTuple):
    """An instruction that runs by itself: its operation, its traffic, and its results' bytes."""

    operation: str
    traffic: int
    size: int


class Content(NamedTuple):
    """Content of a program. Bodies of loops count once.

    Attributes:
        fusions: operations of several instructions.
        copies: operations that change an array's layout and nothing else.
        copied: their bytes.
        collectives: operations that wait for other devices.
        traffic: bytes that all operations read and write in the device's main memory.
    """

    fusions: int
    copies: int
    copied: int
    collectives: int
    traffic: int


def content(text: str) -> Content:
    """The content of a program, by the text of jax.stages.Compiled."""
    found = list(_instructions(text))
    copies = [each for each in found if each.operation in COPIES]
    operations = [each.operation.removesuffix("-start") for each in found]
    return Content(
        operations.count("fusion"),
        len(copies),
        sum(each.size for each in copies),
        sum(operation in COLLECTIVES for operation in operations),
        sum(each.traffic for each in found),
    )


def _instructions(text: str) -> Iterator[Instruction]:
    """The instructions that run by themselves: not those within a fusion or a reduction."""
    rows = text.splitlines()
    inner = {name for row in rows for name in CALLS.findall(row) if " call(" not in row}
    held: dict[str, int] = {}  # bytes of each result in the main memory
    within = ""
    for row in rows:
        if match := COMPUTATION.match(row):
            within = match[1]
        match = INSTRUCTION.match(row)
        if not match or within in inner:
            continue
        name, kind, operation = match.groups()
        sizes = sorted(_bytes(*array) for array in ARRAY.findall(kind))
        held[name] = sum(_bytes(*a) for a in ARRAY.findall(kind) if FAST not in a[2])
        traffic = 0
        if operation.endswith("-start"):  # (from, to, a flag), of which one is in main memory
            traffic = sizes[-2] if len(sizes) > 1 else sum(sizes)
        elif operation not in FREE and not operation.endswith("-done"):
            operands = re.findall(r"%([\w.-]+)", row[match.end() :].partition(")")[0])
            traffic = held[name] + sum(held.get(operand, 0) for operand in operands)
        yield Instruction(operation, traffic, sum(sizes))


def _bytes(dtype: str, shape: str, layout: str) -> int:
    """The bytes of an array; truth values take one."""
    n = 1
    for side in filter(None, shape.split(",")):
        n *= int(side)
    bits = re.search(r"\d+$", dtype)
    return n * (int(bits[0]) if bits else 8) // 8


def chip(device_kind: str) -> str | None:
    """The name in CHIPS of a device, if it is there."""
    return next((name for name in sorted(CHIPS)[::-1] if device_kind.startswith(name)), None)


def roofline(name: str, flops: float, traffic: float) -> tuple[float, float]:
    """(seconds at least, share of the peak FLOP/s that these are) of a program on a chip."""
    made = CHIPS[name]
    seconds = max(flops / made.flops, traffic / made.bandwidth)
    return seconds, flops / made.flops / seconds
