import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

import models
from configs import digits, points
from experiments.commands import plan
from experiments.runs import sharding
from experiments.training.state import abstract_state

ROOT = Path(__file__).parents[3]


def mlp(nf):
    config = points.get_config("moons")
    config.model.nf, config.model.num_res_blocks = nf, 3
    return config


def classifier():
    config = digits.get_config("classifier")
    config.model.channel_multiplier = 1
    return config


def mlp_parameters(nf):
    """Frequencies, two embeddings; three blocks of LayerNorm and three layers; the output."""
    dense = nf * nf + nf
    return (nf // 2 + dense + 3 * nf) + 3 * (2 * nf + 3 * dense) + (2 * nf + 2)


def figures(printed):
    """The numbers of a plan by what they are of."""
    lines = re.findall(r"(?m)^(.{12}) +([\d.,]+)", printed)
    return {what.strip(): float(number.replace(",", "")) for what, number in lines}


def test_a_state_is_four_copies_of_the_parameters_and_three_counts():
    config = mlp(32)
    held = plan.bytes_each(abstract_state(config, models.create(config)))
    assert held == 4 * (4 * mlp_parameters(32) + 3)


def test_a_device_holds_its_share_of_the_state():
    arrays = {
        "kernel": jax.ShapeDtypeStruct((64, 32), jnp.float32),
        "odd": jax.ShapeDtypeStruct((3, 50), jnp.float32),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    shardings = sharding.of_state(AbstractMesh((2, 4), sharding.AXES), arrays)  # pyright: ignore
    placed = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[name])
        for name, leaf in arrays.items()
    }
    assert plan.bytes_each(placed) == 4 * (64 * 32 // 4 + 3 * 50 + 1)


def test_flops_are_those_of_the_layers_whatever_the_microbatches():
    """A layer's output, and the gradients of its weights and, but for the first two, its input."""
    config = mlp(256)
    layers = 10 * 256**2 + 2 * 2 * 256
    by_hand = 2 * 512 * (3 * layers - 256**2 - 2 * 256)
    whole = plan.flops(config)
    assert whole == pytest.approx(by_hand, rel=0.03)
    config.training.n_microbatches = 4
    assert plan.flops(config) == whole


def test_flops_of_a_classifier_are_those_of_its_samples():
    config = classifier()
    once = plan.flops(config)
    config.training.batch_size *= 2
    assert plan.flops(config) == pytest.approx(2 * once, rel=0.05)


def test_a_plan_allocates_nothing(capsys):
    before = len(jax.live_arrays())
    plan.run(mlp(32))
    assert len(jax.live_arrays()) == before
    told = figures(capsys.readouterr().out)
    assert told["parameters"] == mlp_parameters(32)
    assert told["in all"] == pytest.approx(told["state"] + told["the rest"], abs=0.11)


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.main", "--mode=plan", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_mesh_larger_than_the_machine(tmp_path):
    """Four devices share the large kernels, which are nearly all of the state."""
    options = ("--config.mesh.data=2", "--config.mesh.fsdp=4", "--config.model.nf=512")
    planned = command(tmp_path, f"--config={ROOT}/configs/points.py:moons", *options)
    assert planned.returncode == 0, planned.stderr
    assert "8  cpu: data 2 x fsdp 4" in planned.stdout
    told = figures(planned.stdout)
    assert told["parameters"] == mlp_parameters(512)
    assert told["state"] == pytest.approx(16 * mlp_parameters(512) / 4 / 2**20, rel=0.03)
    assert planned.stdout.endswith("for cpu, where remat saves nothing\n")
    assert not list(tmp_path.iterdir())


def test_a_step_that_does_not_fit_ends_in_one_line(monkeypatch):
    def fail(_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 47.26G exceeds 15.75G.")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    with pytest.raises(ValueError, match=r"47.26G exceeds 15.75G. \(config.mesh.fsdp, "):
        plan.run(mlp(32))


def test_an_unknown_slice_ends_in_one_line(monkeypatch):
    monkeypatch.setattr(plan.os, "environ", {})
    with pytest.raises(ValueError, match="--topology='v0:9x9'"):
        plan.run(mlp(32), "v0:9x9")


def test_a_slice_that_is_elsewhere(tmp_path):
    pytest.importorskip("libtpu")
    planned = command(tmp_path, f"--config={ROOT}/configs/points.py:moons", "--topology=v5e:2x4")
    assert planned.returncode == 0, planned.stderr
    assert "8  TPU v5 lite: data 8 x fsdp 1" in planned.stdout
