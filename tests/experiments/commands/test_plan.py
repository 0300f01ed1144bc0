import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from discriminators import config_of, model_config
from jax.sharding import AbstractMesh

from configs import digits, points, tables
from experiments.build import restored
from experiments.build.components import optimization
from experiments.build.fields import configs
from experiments.commands import plan
from experiments.commands.request import Request
from experiments.runs import devices
from experiments.training.state import abstract_state

ROOT = Path(__file__).parents[3]


def mlp(nf):
    config = points.get_config("moons")
    config.model.nf, config.model.num_res_blocks = nf, 3
    return config


def run(config, folder, topology=None):
    plan.run(Request(config, folder, topology=topology))


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
    about = restored.skeleton(config), config.seed, optimization.mesh(config)
    held = plan.bytes_each(abstract_state(*about))
    assert held == 4 * (4 * mlp_parameters(32) + 3)


def test_a_device_holds_its_share_of_the_state():
    arrays = {
        "kernel": jax.ShapeDtypeStruct((64, 32), jnp.float32),
        "odd": jax.ShapeDtypeStruct((3, 50), jnp.float32),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    mesh = AbstractMesh((2, 4), devices.AXES)
    shardings = devices.state_shardings(mesh, arrays)  # pyright: ignore[reportArgumentType]
    placed = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[name])
        for name, leaf in arrays.items()
    }
    assert plan.bytes_each(placed) == 4 * (64 * 32 // 4 + 3 * 50 + 1)


@pytest.mark.thorough
def test_flops_are_those_of_the_layers_whatever_the_microbatches():
    """A layer's output, and the gradients of its weights and, but for the first two, its input."""
    config = mlp(256)
    layers = 10 * 256**2 + 2 * 2 * 256
    by_hand = 2 * 512 * (3 * layers - 256**2 - 2 * 256)
    whole = plan.flops(config)
    assert whole == pytest.approx(by_hand, rel=0.03)
    config.training.n_microbatches = 4
    assert plan.flops(config) == whole


@pytest.mark.thorough
def test_a_plan_allocates_nothing(tmp_path, capsys):
    before = len(jax.live_arrays())
    run(mlp(32), tmp_path)
    assert len(jax.live_arrays()) <= before  # those of other tests may go
    found = figures(capsys.readouterr().out)
    assert found["parameters"] == mlp_parameters(32)
    assert found["in all"] == pytest.approx(found["state"] + found["the rest"], abs=0.11)
    assert found["program"] > 1
    assert found["traffic"] > found["copies"]
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
@pytest.mark.parametrize("program", ["sample", "likelihood"])
def test_sampling_and_likelihoods_have_a_plan_by_batch_size(program, tmp_path, capsys):
    config = mlp(32)
    config.plan.program, found = program, []
    for size in (64, 6400):
        config.sampling.batch_size = config.eval.batch_size = size
        run(config, tmp_path)
        found.append(figures(capsys.readouterr().out))
    assert found[0]["weights"] == pytest.approx(4 * mlp_parameters(32) / 2**20, abs=0.1)
    assert found[1]["the rest"] > 10 * found[0]["the rest"]


@pytest.mark.thorough
def test_a_likelihood_of_data_with_unknown_moments_has_a_plan(tmp_path, capsys):
    config = tables.get_config("wine")
    config.plan.program = "likelihood"
    run(config, tmp_path)
    assert figures(capsys.readouterr().out)["in all"] > 1


def test_other_programs_are_refused(tmp_path):
    config = mlp(32)
    config.plan.program = "samples"
    with pytest.raises(ValueError, match="did you mean 'sample'"):
        run(config, tmp_path)
    config = digits.get_config("classifier")
    config.plan.program = "sample"
    with pytest.raises(ValueError, match="is of score models without smaller images"):
        run(config, tmp_path)


@pytest.mark.thorough
def test_a_classifier_has_a_plan(tmp_path, capsys):
    config = digits.get_config("classifier")
    config.model.channel_multiplier, config.training.batch_size = 1, 4
    run(config, tmp_path)
    found = figures(capsys.readouterr().out)
    config.training.batch_size *= 2
    assert plan.flops(config) / 1e9 == pytest.approx(2 * found["a step"], rel=0.1, abs=0.1)


@pytest.mark.thorough
def test_a_discriminator_has_a_plan(tmp_path, capsys):
    """Neither the weights of its frozen encoder nor the samples are read."""
    configs.save(model_config(), tmp_path)
    config = config_of(tmp_path, pretrained=str(tmp_path))
    run(config, tmp_path)
    task = restored.skeleton(config)
    n_params = sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0)))
    )
    assert figures(capsys.readouterr().out)["parameters"] == n_params > 100


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
    found = figures(planned.stdout)
    assert found["parameters"] == mlp_parameters(512)
    assert found["state"] == pytest.approx(16 * mlp_parameters(512) / 4 / 2**20, rel=0.03)
    assert planned.stdout.endswith("for cpu, where remat saves nothing\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_a_step_that_does_not_fit_ends_in_one_line(tmp_path, monkeypatch):
    def fail(_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 47.26G exceeds 15.75G.")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    with pytest.raises(ValueError, match=r"47.26G exceeds 15.75G. \(config.mesh.fsdp, "):
        run(mlp(32), tmp_path)


def test_an_unknown_slice_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(plan.os, "environ", {})
    with pytest.raises(ValueError, match="--topology='v0:9x9'"):
        run(mlp(32), tmp_path, "v0:9x9")


def test_a_slice_that_is_elsewhere(tmp_path):
    pytest.importorskip("libtpu")
    planned = command(tmp_path, f"--config={ROOT}/configs/points.py:moons", "--topology=v5e:2x4")
    assert planned.returncode == 0, planned.stderr
    assert "8  TPU v5 lite: data 8 x fsdp 1" in planned.stdout
    for name in ("TPU v5 lite", "NVIDIA H100", "NVIDIA H200"):
        assert f"ms  a step on {name}, " in planned.stdout
