import re
import signal
import time

import numpy as np
import pytest
from processes import ROOT, free_address, start

from experiments.runs import hosts
from experiments.runs import workdir

MOONS = (
    "-m",
    "experiments.main",
    f"--config={ROOT / 'configs/points.py'}:moons",
    "--config.model.nf=8",
    "--config.training.batch_size=32",
    "--config.training.log_freq=1",
    "--config.training.snapshot_freq_for_preemption=1000",
    "--config.sampling.n_steps=30",
    "--config.sampling.n_samples=8",
    "--config.eval.batch_size=100",
    "--config.eval.rtol=1e-1",
    "--config.eval.atol=1e-1",
)


def pair(*arguments, folders=(ROOT, ROOT), different=("", "")):
    """Two processes, two devices each."""
    address = free_address()
    return [
        start(
            2,
            *MOONS,
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
    """Until there are n lines of metrics, or an end."""
    while all(process.poll() is None for process in processes):
        if len(workdir.read_metrics(folder)) >= n:
            return
        time.sleep(0.1)


def ends(processes):
    """Return codes and errors."""
    errors = [process.communicate(timeout=200)[1] for process in processes]
    return [process.returncode for process in processes], errors


def test_sigterm_to_one_process_saves_all_at_one_step_and_one_alone_goes_on(tmp_path):
    """Two processes that share out the state over all of their devices, and one with one device."""
    options = "--config.training.n_iters=1000000", "--config.mesh.fsdp=4"
    processes = pair(f"--workdir={tmp_path}", *options)
    wait_for_lines(tmp_path, 20, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, errors = ends(processes)
    assert codes == [0, 0], errors
    stopped_at = int(re.search(r"stopped and saved at step (\d+)", errors[0])[1])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(stopped_at)]

    alone = start(1, *MOONS, f"--workdir={tmp_path}", "--config.training.n_iters=1000000")
    wait_for_lines(tmp_path, stopped_at + 10, [alone])
    alone.send_signal(signal.SIGTERM)
    codes, errors = ends([alone])
    assert codes == [0], errors
    assert f"from step {stopped_at}" in errors[0]
    steps = [row["step"] for row in workdir.read_metrics(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.slow
def test_processes_of_different_configs_or_folders_are_told(tmp_path):
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


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_other_too(tmp_path):
    """Its data are missing: the other would wait for it in its first step."""
    apart = [tmp_path / "one", tmp_path / "other"]
    for folder in apart:
        folder.mkdir()
    images = np.arange(64 * 64, dtype=np.uint8).reshape(64, 8, 8, 1)
    np.savez(apart[0] / "data.npz", train=images, test=images)
    processes = pair(
        f"--config={ROOT / 'configs/digits.py'}",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.dataset=npz",
        "--config.data.path=data.npz",
        folders=apart,
    )
    codes, errors = ends(processes)
    assert all(codes)
    assert "'data.npz' is no .npz file" in errors[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("here:1", None, None, 9), "belong together"),
        ((None, 2, 0, 9), "belong together"),
        (("here", 2, 0, 9), "'here': it must be HOST:PORT"),
        (("here:1", 2, 2, 9), "--process_id is 2: it must be 0 to 1"),
    ],
)
def test_flags_that_cannot_be_are_refused(arguments, message):
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
    monkeypatch.setattr(hosts.sys, "excepthook", hosts.sys.excepthook)
    for name in ("SLURM_NTASKS", "SLURM_STEP_NODELIST", "TPU_ML_PLATFORM", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hosts.join(None, None, None, 9)
    assert bool(joined) == found
