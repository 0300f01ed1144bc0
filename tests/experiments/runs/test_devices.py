import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import mesh_steps
import numpy as np
import pytest
from flax import serialization
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P
from processes import free_address, start

from configs import cifar10, digits
from experiments.build import tasks
from experiments.build.components import optimization
from experiments.runs import devices
from experiments.training.state import abstract_state

SCRIPT = Path(mesh_steps.__file__)


@pytest.fixture(scope="module")
def one_device():
    """The results of one device, and its weights."""
    config = mesh_steps.make_config()
    result, params = mesh_steps.steps(config)
    more = {"coupled": mesh_steps.coupled(optimization.mesh(config))}
    return result | more | {"samples": mesh_steps.samples(config, params)}, params


def results(folder, params, runs):
    """The results of the processes `runs`: each a number of devices, meshes and more arguments."""
    (folder / "weights").write_bytes(serialization.msgpack_serialize(params))
    processes = [start(count, SCRIPT, folder, *arguments) for count, *arguments in runs]
    for process in processes:
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


def check_equal(ours, theirs):
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=1e-5)
    np.testing.assert_array_equal(ours["coupled"], theirs["coupled"])
    scale = np.abs(theirs["samples"]).max()
    np.testing.assert_allclose(ours["samples"], theirs["samples"], atol=1e-5 * scale)


def moved(result):
    """Bytes by the kind of collective in a step."""
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    return {kind: int(result[kind]) for kind in kinds if kind in result}


@pytest.mark.thorough
def test_steps_and_samples_of_one_device_are_those_of_2_x_2(tmp_path, one_device):
    """A step moves the weights once, the gradient once and a few norms, but no activations."""
    one, params = one_device
    assert one["losses"][-1] < 0.9 * one["losses"][0]
    many = results(tmp_path, params, [(4, "2x2")])["1_2x2"]
    check_equal(many, one)
    size, collectives = int(one["params"]), moved(many)
    assert collectives.keys() == {"all-gather", "all-reduce"}
    assert collectives["all-gather"] <= size <= collectives["all-reduce"] <= 1.05 * size
    assert many["state_here"] <= 1.02 * one["state"] / 2


@pytest.mark.slow
def test_data_parallel_steps_move_the_gradient_and_the_loss_once(tmp_path, one_device):
    one, params = one_device
    many = results(tmp_path, params, [(8, "8x1")])["1_8x1"]
    check_equal(many, one)
    assert moved(many) == {"all-reduce": int(one["params"]) + 4}


@pytest.mark.slow
def test_so_are_those_of_two_processes_and_of_other_batches_of_samples(tmp_path, one_device):
    one, params = one_device
    in_threes = mesh_steps.samples(mesh_steps.make_config(), params, batch_size=3)
    check_equal(one | {"samples": in_threes}, one)
    address = free_address()
    runs = [(4, "8x1", "2x4", address, process) for process in (0, 1)]
    many = results(tmp_path, params, runs)
    assert many.keys() == {"2_8x1", "2_2x4"}
    for result in many.values():
        check_equal(result, one)


@functools.cache
def state_of(name):
    """The shapes of the state that a published or small config trains."""
    made = {"digits": digits.get_config, "cifar10": cifar10.get_config}[name]
    config = made("vp" if name == "digits" else "ve_ncsnpp_continuous")
    task = tasks.task(config)
    return abstract_state(task, config.seed, task.mesh)


@pytest.mark.parametrize("n", [2, 8, 32])
@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_shares_of_the_state_are_equal_to_a_fiftieth(name, n):
    """Parameters, averages and moments are split; their smallest leaves are whole everywhere."""
    state = state_of(name)
    shardings = devices.state_shardings(AbstractMesh((1, n), devices.AXES), state)

    def here(leaf, place):
        return np.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    share = sum(jax.tree.leaves(jax.tree.map(here, state, shardings)))
    assert whole / n <= share <= 1.02 * whole / n


def test_further_averages_are_split_as_the_first():
    state = state_of("digits")
    state = state._replace(averages=(state.ema_params,))
    shardings = devices.state_shardings(AbstractMesh((1, 8), devices.AXES), state)
    assert shardings.averages[0] == shardings.ema_params
    assert any(place.spec == P(None, "fsdp") for place in jax.tree.leaves(shardings.averages))


def test_an_axis_that_the_devices_do_not_divide_is_left_whole():
    tree = {"out": jnp.zeros((3, 3, 64, 3)), "odd": jnp.zeros((3, 9)), "kernel": jnp.zeros((8, 80))}
    shardings = devices.state_shardings(AbstractMesh((1, 8), devices.AXES), tree)
    assert shardings["kernel"].spec == P(None, "fsdp")
    assert shardings["out"].spec == P(None, None, "fsdp")
    assert shardings["odd"].spec == P()


@pytest.mark.parametrize(("rows", "columns"), [(2, 1), (-1, 2), (1, 0), (-2, 1)])
def test_a_mesh_of_other_than_all_devices_is_refused(rows, columns):
    with pytest.raises(ValueError, match="must be the number of devices, 1"):
        devices.make_mesh(rows, columns)
