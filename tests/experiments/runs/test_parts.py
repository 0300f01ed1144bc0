import numpy as np
import pytest

from experiments.runs import devices, parts

MESH = devices.make_mesh()


@pytest.mark.parametrize("batch_size", [1, 4, 10, 99])
def test_every_value_is_seen_once_whatever_the_batch_size(batch_size):
    values = np.arange(10) + 100
    shapes = set()

    def fn(batch, first):
        shapes.add(batch.shape)
        return {"value": batch, "index": first + np.arange(len(batch))}

    result = parts.over(MESH, values, batch_size, fn)
    np.testing.assert_array_equal(result["value"], values)
    np.testing.assert_array_equal(result["index"], np.arange(10))
    assert len(shapes) == 1


def test_a_computation_cut_off_goes_on_where_it_was(tmp_path):
    part, seen, cuts = parts.Parts(tmp_path, "squares", {"seed": 1}), [], [6]

    def fn(batch, first):
        if first in cuts:
            cuts.remove(first)
            raise KeyboardInterrupt
        seen.append(first)
        return {"square": batch**2}

    with pytest.raises(KeyboardInterrupt):
        parts.over(MESH, np.arange(10), 2, fn, part)
    result = parts.over(MESH, np.arange(10), 2, fn, part)
    assert seen == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(result["square"], np.arange(10) ** 2)


def test_batches_of_another_size_are_other_parts(tmp_path):
    """As where an evaluation goes on with more devices than it began with."""
    part = parts.Parts(tmp_path, "squares", {"seed": 1})
    for batch_size in (4, 6, 4):
        result = parts.over(
            MESH, np.arange(10), batch_size, lambda batch, _: {"square": batch**2}, part
        )
        np.testing.assert_array_equal(result["square"], np.arange(10) ** 2)


def test_parts_belong_to_their_settings(tmp_path):
    one, other = (parts.Parts(tmp_path, "x", {"seed": seed}) for seed in (1, 2))
    assert one("a", lambda: {"x": np.array(1)})["x"] == 1
    assert other("a", lambda: {"x": np.array(2)})["x"] == 2
    assert one("a", lambda: {"x": np.array(3)})["x"] == 1


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_part_is_made_again(tmp_path, damage, caplog):
    part = parts.Parts(tmp_path, "kind", 1)
    part("name", lambda: {"x": np.arange(100)})
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:300] if damage is None else damage)
    np.testing.assert_array_equal(part("name", lambda: {"x": np.arange(5)})["x"], np.arange(5))
    assert "name.npz is damaged, and made again" in caplog.text
    np.testing.assert_array_equal(part("name", lambda: {})["x"], np.arange(5))


def test_a_digest_is_that_of_the_values_in_single_precision():
    """Under jax_enable_x64 weights are restored in double precision."""
    weights = np.linspace(0.0, 1.0, 5, dtype=np.float32)
    assert parts.digest({"w": weights}) == parts.digest({"w": weights.astype(np.float64)})
    assert parts.digest({"w": np.array([1 / 3])}) != parts.digest({"w": np.float32([1 / 3])})
