import math
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_writer
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from models import weights
from models.published import base
from models.published.base import Skeleton, Tensor
from models.weights import safetensors_files

ORDERS = ("phc", "pch", "hpc", "hcp", "chp", "cph")
PEAK = """
import sys
import jax, numpy as np
from models import published
from models.published import base

def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

n, side, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
leaf = jax.ShapeDtypeStruct((side, side), np.float32)
shapes = {(f"layer_{i}", "kernel"): leaf for i in range(n)}
table = {location: base.Tensor(".".join(location)) for location in shapes}
jax.device_put(np.ones((64, 64), np.float32)).block_until_ready()
content = published.read(sys.argv[4]).content  # a small file, for what the reader imports
open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
before = memory("VmRSS")
params = base.assign(published.read(path).content, table, base.Skeleton(None, (), (), shapes))
print((memory("VmHWM") - before) / (4 * n * side**2))
"""


def skeleton(**shapes):
    """A network of parameters with these shapes; __ separates the modules of their names."""
    leaves = {
        tuple(name.split("__")): jax.ShapeDtypeStruct(shape, np.float32)
        for name, shape in shapes.items()
    }
    return Skeleton(None, (), (), leaves)


def numbers(shape):
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


def both_ways(table, bare):
    """Published tensors of random parameters. They give back the parameters to the last bit."""
    random = np.random.RandomState(0)
    params = {
        location: random.standard_normal(leaf.shape).astype(np.float32)
        for location, leaf in bare.shapes.items()
    }
    arrays = base.extract(unflatten_dict(params), table)
    assert all(array.flags.c_contiguous for array in arrays.values())
    back = flatten_dict(base.assign(arrays, table, bare))
    assert back.keys() == params.keys()
    for location, value in back.items():
        assert isinstance(value, jax.Array)
        np.testing.assert_array_equal(value, params[location])
    beside = {"schedule": {"centre": jnp.zeros(2)}, "log_variance": {}}
    again = base.extract({**unflatten_dict(back), **beside}, table)
    assert again.keys() == arrays.keys()
    for name, array in again.items():
        np.testing.assert_array_equal(array, arrays[name])
    return params, arrays


def test_kernels_are_transposed_and_other_parameters_are_not():
    bare = skeleton(
        a__kernel=(2, 3),
        b__kernel=(5, 7, 2, 3),
        c__kernel=(4, 3),
        a__bias=(3,),
        gain=(),
        d__W=(2, 3),
    )
    table = {location: Tensor(".".join(location)) for location in bare.shapes}
    table["c", "kernel"] = Tensor("c.table", rows=True)
    params, arrays = both_ways(table, bare)
    np.testing.assert_array_equal(arrays["a.kernel"], params["a", "kernel"].T)
    kernel = params["b", "kernel"].transpose(3, 2, 0, 1)  # [out, in, height, width]
    np.testing.assert_array_equal(arrays["b.kernel"], kernel)
    for name, location in (("c.table", ("c", "kernel")), ("gain", ("gain",)), ("d.W", ("d", "W"))):
        np.testing.assert_array_equal(arrays[name], params[location])


@pytest.mark.parametrize("order", ORDERS)
def test_rows_of_a_joint_layer_are_nested_by_its_order(order):
    """Row number r of the published layer has the indices (part, head, channel) of its digits."""
    heads, size, inputs = 2, 3, 4
    bare = skeleton(
        **{f"{p}__{n}": s for p in "qkv" for n, s in (("kernel", (4, 6)), ("bias", (6,)))}
    )
    table = {
        (name, leaf): Tensor(f"qkv.{leaf}", part="qkv".index(name), order=order, heads=heads)
        for name, leaf in bare.shapes
    }
    params, arrays = both_ways(table, bare)
    assert arrays["qkv.kernel"].shape == (3 * heads * size, inputs)
    lengths = {"p": 3, "h": heads, "c": size}
    digits = np.unravel_index(np.arange(3 * heads * size), [lengths[axis] for axis in order])
    index = dict(zip(order, digits, strict=True))
    for row in range(3 * heads * size):
        part, column = "qkv"[index["p"][row]], index["h"][row] * size + index["c"][row]
        np.testing.assert_array_equal(arrays["qkv.kernel"][row], params[part, "kernel"][:, column])
        assert arrays["qkv.bias"][row] == params[part, "bias"][column]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(ORDERS),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 2),
    st.permutations(range(3)),
)
def test_assign_and_extract_are_inverse(order, heads, size, inputs, window, blocks):
    """Joint layers, windows of dense layers, patches, orders of blocks, tables and copies."""
    width = heads * size
    bare = skeleton(
        **{f"{name}__kernel": (inputs, width) for name in "qkv"},
        dense__kernel=(inputs, width),
        table__kernel=(inputs, width),
        patches__kernel=(4 * inputs, width),
        modulation__kernel=(inputs, 3 * size),
        modulation__bias=(3 * size,),
    )
    table = {
        (name, "kernel"): Tensor("qkv", window, "qkv".index(name), order, heads) for name in "qkv"
    } | {
        ("dense", "kernel"): Tensor("dense", window, copies=("copy.0", "copy.1")),
        ("table", "kernel"): Tensor("table", rows=True),
        ("patches", "kernel"): Tensor("patches", patch=2),
        ("modulation", "kernel"): Tensor("modulation", blocks=tuple(blocks)),
        ("modulation", "bias"): Tensor("modulation.bias", blocks=tuple(blocks)),
    }
    params, arrays = both_ways(table, bare)
    assert arrays["qkv"].shape == (3 * width, inputs, *[1] * window)
    assert arrays["dense"].shape == (width, inputs, *[1] * window)
    assert arrays["patches"].shape == (width, inputs, 2, 2)
    np.testing.assert_array_equal(arrays["copy.1"], arrays["dense"])
    ours = np.split(params["modulation", "bias"], 3)
    expected = np.concatenate([ours[i] for i in blocks])
    np.testing.assert_array_equal(arrays["modulation.bias"], expected)


def test_float16_becomes_the_network_s_type():
    bare = skeleton(a__kernel=(2, 3))
    array = numbers((3, 2)).astype(np.float16)
    params: dict = base.assign({"a": array}, {("a", "kernel"): Tensor("a")}, bare)
    assert params["a"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(params["a"]["kernel"], numbers((3, 2)).T)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": None}, r"missing \['a'\]; unexpected none; of another shape none"),
        ({"more": np.ones(3)}, r"missing none; unexpected \['more'\]"),
        ({"a": np.ones((3, 3))}, r"of another shape \['a: \(3, 3\), not \(3, 2\)'\]"),
        ({"copy": np.ones((3, 2))}, "copy differs from a, but a model of this kind"),
        ({"a": None, "b": np.ones(4)}, r"missing \['a'\]; unexpected none; .* \['b: \(4,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_as_a_whole(changes, message):
    bare = skeleton(a__kernel=(2, 3), b__bias=(3,))
    table = {("a", "kernel"): Tensor("a", copies=("copy",)), ("b", "bias"): Tensor("b")}
    good = {"a": numbers((3, 2)), "copy": numbers((3, 2)), "b": numbers((3,))}
    arrays = {name: array for name, array in (good | changes).items() if array is not None}
    with pytest.raises(ValueError, match=message):
        base.convert(arrays, table, bare)
    del good["copy"]  # which may be left out
    assert base.assign(good, table, bare).keys() == {"a", "b"}


def test_a_parameter_is_made_when_it_is_asked_for():
    """The memory of the file behind one is freed before the next is read."""
    read = []

    class Counted(dict):
        def __getitem__(self, name):
            read.append(name)
            return super().__getitem__(name)

    bare = skeleton(a__bias=(3,), b__bias=(3,))
    table = {location: Tensor(location[0]) for location in bare.shapes}
    values = base.convert(Counted(a=numbers((3,)), b=numbers((3,))), table, bare)
    read.clear()
    np.testing.assert_array_equal(next(values), numbers((3,)))
    assert read == ["a"]


def test_a_skeleton_has_the_outermost_calls_and_the_shapes():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, labels):
            return nn.Dense(3)(x) * labels[:, None, None, None]

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, labels):
            last = nn.Dense(2, name="last")
            return last(Block(name="first")(x, labels))

    bare = base.skeleton(Network(), (4, 4, 5))
    assert bare.calls == ("first", "last")
    assert {location: leaf.shape for location, leaf in bare.shapes.items()} == {
        ("first", "Dense_0", "kernel"): (5, 3),
        ("first", "Dense_0", "bias"): (3,),
        ("last", "kernel"): (3, 2),
        ("last", "bias"): (2,),
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are Linux's")
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_importing_takes_the_memory_of_the_weights_once(tmp_path, kind):
    """For 200 MB in 50 tensors, at most 1.2 times their size."""
    n, side = 50, 1000

    def write(path, n, side):
        draws = (np.random.RandomState(i).rand(side, side).astype(np.float32) for i in range(n))
        names = [f"layer_{i}.kernel" for i in range(n)]
        if kind == "safetensors":
            shapes = dict.fromkeys(names, ((side, side), np.dtype(np.float32)))
            with path.open("wb") as file:
                safetensors_files.write(file, shapes, draws, {})
        else:
            tensors = map(torch_writer.tensor, draws)
            torch_writer.save_zip(path, dict(zip(names, tensors, strict=True)))
        return str(path)

    paths = write(tmp_path / f"large.{kind}", n, side), write(tmp_path / f"small.{kind}", 1, 4)
    assert weights.read(paths[0]).keys() == {f"layer_{i}.kernel" for i in range(n)}
    command = [sys.executable, "-c", PEAK, str(n), str(side), *paths]
    root = Path(base.__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.2
