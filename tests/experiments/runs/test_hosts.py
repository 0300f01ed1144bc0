import re
import signal
import time

import numpy as np
import pytest
from processes import ROOT, free_address, start

from configs import points
from experiments.commands import train
from experiments.commands.request import Request
from experiments.runs import files, hosts

OPTIONS = {
    "model.nf": 8,
    "model.num_res_blocks": 1,
    "training.batch_size": 32,
    "training.log_freq": 1,
    "training.snapshot_freq_for_preemption": 1000,
    "training.sinks": ("jsonl",),
    "training.at_end": (),
}

MOONS = (
    *("-m", "experiments.main", f"--config={ROOT / 'configs/points.py'}:moons"),
    *(f"--config.{field}={value}" for field, value in OPTIONS.items()),
)


def lines(folder):
    return files.read_lines(folder / "metrics.jsonl")


def pair(*arguments, command=MOONS, folders=(ROOT, ROOT), different=("", "")):
    """Two processes of two devices each."""
    address = free_address()
    return [
        start(
            2,
            *command,
            *arguments,
            f"--coordinator={address}",
            "--num_processes=2",
            f"--process_id={k}",
            *filter(None, [different[k]]),
            folder=folders[k],
        )
        for k in (0, 1)
    ]


def wait_for_lines(folder, n, processes):
    """Waits until there are n lines of metrics, or a process ends."""
    while all(process.poll() is None for process in processes):
        if len(lines(folder)) >= n:
            return
        time.sleep(0.1)


def ends(processes):
    """Return codes and errors of processes, after their end."""
    errors = [process.communicate(timeout=200)[1] for process in processes]
    return [process.returncode for process in processes], errors


@pytest.mark.thorough
def test_a_signal_to_one_process_saves_all_at_one_step_and_one_alone_continues(tmp_path, caplog):
    """Two processes split the state over all of their devices; the one alone has one device."""
    endless = "--config.training.n_iters=1000000"
    processes = pair(f"--workdir={tmp_path}", endless, "--config.mesh.fsdp=4")
    wait_for_lines(tmp_path, 10, processes)
    processes[1].send_signal(signal.SIGUSR1)  # which stands for SIGTERM
    codes, errors = ends(processes)
    assert codes == [0, 0], errors
    stopped_at = int(re.search(r"stopped and saved at step (\d+)", errors[0])[1])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(stopped_at)]

    config = points.get_config("moons")
    config.update_from_flattened_dict(OPTIONS)
    config.training.n_iters = stopped_at + 10
    caplog.set_level("INFO", "experiments")
    train.run(Request(config, tmp_path))
    assert f"from step {stopped_at}" in caplog.text
    assert [row["step"] for row in lines(tmp_path)] == list(range(1, stopped_at + 11))


@pytest.mark.slow
def test_processes_of_different_configs_or_folders_are_refused(tmp_path):
    configs = pair(f"--workdir={tmp_path / 'a'}", different=("", "--config.optim.lr=0.5"))
    apart = [tmp_path / "one", tmp_path / "other"]
    for folder in apart:
        folder.mkdir()
    folders = pair("--workdir=run", folders=apart)
    codes, errors = ends(configs)
    assert codes == [1, 1]
    for text in errors:
        assert "config.optim.lr: 0.001 in process 0, 0.5 in 1" in text
    assert not (tmp_path / "a").exists()
    codes, errors = ends(folders)
    assert codes == [1, 1]
    for text in errors:
        assert "error: processes [1] do not see the run of process 0" in text


@pytest.mark.thorough
def test_a_coordinator_that_does_not_answer_ends_in_one_line():
    process = start(
        1,
        *MOONS,
        f"--coordinator={free_address()}",
        "--num_processes=2",
        "--process_id=1",
        "--patience=1",
    )
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert re.search(r"error: no answer from localhost:\d+ within 1 s", errors.splitlines()[-1])


TOGETHER = """
import sys
from experiments import edge
from experiments.runs import hosts
from experiments.training import watch
address, n, k = (argument.partition("=")[2] for argument in sys.argv[1:4])
hosts.join(address, int(n), int(k), 60)
for name, failing in (("both", "01"), ("one", "1")):
    with watch.surviving(name):
        hosts.everyone(True)
        if k in failing:
            raise KeyError("five channels")
print("went on", hosts.everyone(True), flush=True)
hosts.MEET_WITHIN = 3
with edge.guard(lambda: None), watch.surviving("alone"):
    if k == "1":
        raise KeyError("no memory")
    hosts.everyone(True)
print("never here")
"""


@pytest.mark.slow
def test_a_picture_that_fails_ends_no_training_of_several_processes():
    """Unless one process has left the others in the middle of a computation of all."""
    first, second = pair(command=("-c", TOGETHER))
    output, errors = second.communicate(timeout=200)
    first.kill()
    assert second.returncode == 1
    for text in (output, first.communicate()[0]):
        assert text.endswith("went on True\n")  # after what gloo says
    for text in ("both: 'five channels'", "one: 'five channels'", "error: KeyError: no memory"):
        assert text in errors


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_other_too(tmp_path):
    """One does not find its data; the other would wait for it in its first step."""
    apart = [tmp_path / "one", tmp_path / "other"]
    for folder in apart:
        folder.mkdir()
    images = np.arange(64 * 64, dtype=np.uint8).reshape(64, 8, 8, 1)
    np.savez(apart[0] / "data.npz", train=images, test=images)
    processes = pair(
        f"--workdir={tmp_path / 'run'}",
        "--config.data.dataset=npz",
        "--config.data.path=data.npz",
        command=("-m", "experiments.main", f"--config={ROOT / 'configs/digits.py'}"),
        folders=apart,
    )
    codes, errors = ends(processes)
    assert all(codes)
    assert "'data.npz' must be an .npz file" in errors[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("here:1", None, None, 9), "belong together"),
        ((None, 2, 0, 9), "belong together"),
        (("here", 2, 0, 9), "'here': it must be HOST:PORT"),
        (("here:1", 2, 2, 9), "--process_id is 2: it must be 0 to 1"),
    ],
)
def test_impossible_flags_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        hosts.join(*arguments)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, False),  # in a job, outside srun
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1"}, False),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "n[1-2]"}, True),
        ({"TPU_ML_PLATFORM": "JAX"}, True),
        ({"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_SKIP_MDS_QUERY": "1"}, True),
    ],
)
def test_clusters_are_found_by_their_environment(monkeypatch, environment, found):
    joined = []
    monkeypatch.setattr(hosts.jax.distributed, "initialize", lambda *_, **__: joined.append(True))
    for name in ("SLURM_NTASKS", "SLURM_STEP_NODELIST", "TPU_ML_PLATFORM", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hosts.join(None, None, None, 9)
    assert bool(joined) == found


def test_a_fact_is_true_everywhere_if_it_is_so_in_all_processes(monkeypatch):
    ours, theirs = np.array([True, True, False]), np.array([True, False, True])
    np.testing.assert_array_equal(hosts.everywhere(ours), ours)
    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        hosts.multihost_utils, "process_allgather", lambda facts: np.stack([facts, theirs])
    )
    np.testing.assert_array_equal(hosts.everywhere(ours), [True, False, False])
