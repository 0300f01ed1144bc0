import json
import tracemalloc

import flax.serialization
import golden
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from models import weights

OLD = golden.FOLDER / "score_sde_flax_checkpoint.msgpack"


def test_a_checkpoint_of_old_flax_is_read_and_its_normalizations_are_made_new():
    tree = weights.read(OLD)
    assert int(tree["step"]) == 20
    assert tree["rng"].dtype == np.uint32
    averages = flatten_dict(tree["params_ema"], sep="/")
    expected = json.loads(str(golden.load("score_sde_flax_checkpoint")["parameters"]))
    assert sorted(averages) == sorted(name for name, _ in expected)
    for name, shape in expected:
        new = shape[3:] if shape[:3] == [1, 1, 1] and name.endswith(("scale", "bias")) else shape
        assert averages[name].shape == tuple(new), name
    old = flax.serialization.msgpack_restore(OLD.read_bytes())["optimizer"]["target"]
    for name, value in flatten_dict(old, sep="/").items():
        found = flatten_dict(tree["optimizer"]["target"], sep="/")[name]
        np.testing.assert_array_equal(found.ravel(), value.ravel())


def test_numbers_of_every_kind_are_read(tmp_path):
    tree = {"a": {"kernel": np.ones((1, 1, 1, 4)), "b": jnp.ones(2, jnp.bfloat16)}, "n": 3, "c": 2j}
    (tmp_path / "checkpoint_3").write_bytes(flax.serialization.msgpack_serialize(tree))
    found = weights.read(tmp_path / "checkpoint_3")
    assert found["a"]["kernel"].shape == (1, 1, 1, 4)
    assert found["a"]["b"].dtype == jnp.bfloat16
    assert (found["n"], found["c"]) == (3, 2j)


def test_large_arrays_in_parts_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
    tree = {"a": np.arange(12.0).reshape(3, 4)}
    (tmp_path / "file").write_bytes(flax.serialization.msgpack_serialize(tree))
    np.testing.assert_array_equal(weights.read(tmp_path / "file")["a"], tree["a"])


def test_objects_and_damaged_files_are_refused(tmp_path):
    content = OLD.read_bytes()
    array = msgpack.packb(((1,), "object", b"\0" * 8))
    objects = msgpack.packb({"a": msgpack.ExtType(1, array)})
    for data in (objects, content[:1000], content[:-1], b"\x81\xa1a\xc1"):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(ValueError, match="looks like a msgpack checkpoint of Flax, but cannot"):
            weights.read(tmp_path / "file")


def test_a_checkpoint_needs_little_more_memory_than_its_size(tmp_path):
    tree = {str(i): np.ones(2**18, np.float32) for i in range(16)}
    (tmp_path / "file").write_bytes(flax.serialization.msgpack_serialize(tree))
    tracemalloc.start()
    found = weights.read(tmp_path / "file")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * (tmp_path / "file").stat().st_size
    assert len(found) == 16
