"""Whole commands, as a user types them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = (
    "--config=configs/points.py:moons",
    "--config.training.n_iters=1000",
    "--config.model.nf=32",
    "--config.training.log_freq=50",
    "--config.training.snapshot_freq_for_preemption=200",
    "--config.sampling.n_steps=40",
    "--config.sampling.n_samples=64",
    "--config.eval.batch_size=500",
    "--config.eval.rtol=1e-2",
    "--config.eval.atol=1e-2",
)


def command(*arguments):
    return [sys.executable, "-m", "experiments.main", *arguments]


def run(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def start(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def wait_for_step(workdir, step):
    """Until the run has logged that step."""
    for _ in range(1200):
        path = workdir / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.1)
    raise TimeoutError(f"step {step} was never logged")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(*QUICK, f"--workdir={workdir}")


def test_training_ends_with_the_likelihood_and_the_pictures(whole):
    workdir, finished = whole
    assert finished.returncode == 0, finished.stderr
    bits, *pictures = finished.stdout.splitlines()[-4:]
    assert re.fullmatch(r"test bits/dim -?\d\.\d{3} \+- \d\.\d{3} \(nfe \d+\)", bits)
    for picture in pictures:
        assert Path(picture).is_file()
    assert "time left" in finished.stderr
    assert metrics(workdir)[-1]["step"] == 1000
    assert json.loads((workdir / "config.json").read_text())["data"]["dataset"] == "moons"


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(whole, tmp_path):
    process = start(*QUICK, f"--workdir={tmp_path}")
    wait_for_step(tmp_path, 450)
    process.kill()
    process.communicate()
    process = start(*QUICK, f"--workdir={tmp_path}")
    wait_for_step(tmp_path, 650)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert "from step 400" in errors or "from step 200" in errors
    lines = metrics(tmp_path)
    assert len(lines) >= 13
    assert lines == metrics(whole[0])[: len(lines)]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_exits_with_0(whole, tmp_path, number):
    process = start(*QUICK, "--config.training.n_iters=1000000", f"--workdir={tmp_path}")
    wait_for_step(tmp_path, 250)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    stopped_at = int(re.search(r"stopped and saved at step (\d+)", errors)[1])
    assert (tmp_path / "checkpoints" / str(stopped_at)).is_dir()
    assert stopped_at >= 250


def test_sample_and_likelihood_use_the_trained_model(whole):
    workdir, finished = whole
    trained = finished.stdout.splitlines()[-4]
    scored = run(*QUICK, f"--workdir={workdir}", "--mode=likelihood")
    assert scored.stdout.splitlines()[-1] == trained
    drawn = run(*QUICK, f"--workdir={workdir}", "--mode=sample", "--config.sampling.n_steps=30")
    assert drawn.returncode == 0, drawn.stderr
    assert all(Path(line).is_file() for line in drawn.stdout.splitlines()[-2:])


@pytest.mark.slow
def test_evaluate_prints_and_keeps_its_figures(whole):
    workdir, finished = whole
    options = ("--config.eval.num_samples=64", "--config.sampling.batch_size=64")
    evaluated = run(*QUICK, *options, f"--workdir={workdir}", "--mode=evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    *lines, closest = [line.removeprefix("step 1000: ") for line in evaluated.stdout.splitlines()]
    assert lines[1] == finished.stdout.splitlines()[-4]
    assert closest.startswith("recall(coordinates) ")
    (kept,) = [json.loads(line) for line in (workdir / "evaluation.jsonl").open()]
    assert kept["step"] == 1000
    assert f"{kept['test loss']['value']:.3f}" in lines[0]


@pytest.mark.slow
def test_exposure_bias_studies_the_trained_model(whole):
    workdir, _ = whole
    options = ("solvers=('heun',)", "nfe=(9,)", "n_samples=64")
    options = [f"--config.exposure_bias.{option}" for option in options]
    options += ["--config.sampling.eps_scale=1.01", f"--workdir={workdir}", "--mode=exposure_bias"]
    studied = run(*QUICK, *options)
    assert studied.returncode == 0, studied.stderr
    about, _, plain, scaled, *paths = studied.stdout.splitlines()
    assert f"the model of {workdir} after 1000 steps" in about
    assert plain.split()[:4] == ["heun", "9", "EDM", "1.00000"]
    assert scaled.split()[:4] == ["heun", "9", "EDM-ES", "1.01000"]
    assert all(Path(path).is_file() for path in paths)


@pytest.mark.slow
def test_ablate_compares_what_the_trained_model_can(whole):
    options = ("--config.ablate.nfe=(5,)", "--config.ablate.n_samples=64")
    ablated = run(*QUICK, *options, f"--workdir={whole[0]}", "--mode=ablate")
    assert ablated.returncode == 0, ablated.stderr
    without, _, *lines, table, arms, grid = ablated.stdout.splitlines()
    assert "EDM-G++ and SEDM-G++ are left out" in without
    assert [line.split()[2] for line in lines[:4]] == ["EDM", "EDM-ES"] * 2
    assert [lines[-5][:12], lines[-3][:11]] == ["euler 5: EDM", "heun 5: EDM"]
    assert all(line.startswith("  EDM-ES less EDM: ") for line in (lines[-4], lines[-2]))
    assert all(Path(path).is_file() for path in (table, arms, grid))


ALIKE = [  # seen in process by other tests, or like others here
    (["--config=configs/digits.py", "--workdi=x"], "Did you mean: workdir"),
    (["--config=configs/digit.py"], "there is no config 'configs/digit.py'"),
    (["--config=configs/digits.py", "more"], "unexpected arguments: more"),
    (["--config=configs/digits.py", "--config.optim.lr=abc"], "could not convert"),
    (["--config=configs/digits.py", "--config.model.beta_min=30."], "0 < beta_min < beta_max"),
    (["--config=configs/digits.py", "--config.model.ch_mult=(1,1,1,1,1)"], "cannot be halved"),
    (["--config=configs/digits.py", "--mode=import"], "needs --checkpoint=FILE.pth"),
    (["--config=configs/points.py", "--config.model.name=ddpm"], "which are points"),
    (["--config=configs/cifar10.py", "--config.data.path=/none"], "/none"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/digits.py:vee"], "did you mean 've'"),
        (["--config=configs/digits.py", "--config.training.n_iter=5"], 'Did you mean "n_iters"'),
        (["--config=configs/digits.py", "--mode=trian"], "did you mean 'train'"),
        (
            ["--config=configs/digits.py:classifier", "--mode=sample"],
            "for --mode=train or plan alone",
        ),
        *(pytest.param(*mistake, marks=pytest.mark.slow) for mistake in ALIKE),
    ],
)
def test_a_mistake_ends_in_one_line(tmp_path, arguments, message):
    finished = run(*arguments, f"--workdir={tmp_path / 'new'}")
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    assert message in finished.stderr.splitlines()[-1]
    assert not (tmp_path / "new").exists()


def test_a_folder_of_another_config_is_refused(whole):
    refused = run(*QUICK, f"--workdir={whole[0]}", "--config.optim.lr=0.5")
    assert refused.returncode == 1
    assert "optim.lr: there 0.001, here 0.5" in refused.stderr


def test_a_full_disk_ends_in_one_line(monkeypatch):
    """Of orbax's words, not of its class: a ValueError around the system's message."""
    from absl import app

    from experiments import main

    def fail(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error]")

    monkeypatch.setattr(app, "run", fail)
    with pytest.raises(SystemExit, match="error: the disk is full; the checkpoint before is good"):
        main.run()


@pytest.mark.parametrize("own", [False, True])
def test_compiled_programs_are_kept_where_the_user_says(monkeypatch, own):
    from absl import app

    from experiments import main

    kept = {}
    monkeypatch.setattr(app, "run", lambda *_, **__: None)
    monkeypatch.setattr(main.jax.config, "update", kept.__setitem__)
    for name in main.COMPILED:
        monkeypatch.delenv(name.upper(), raising=False)
    if own:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "own")
    main.run()
    assert kept.pop("jax_compilation_cache_dir", "own").endswith("own" if own else "/xla")
    assert kept == {"jax_persistent_cache_min_compile_time_secs": 0.1}


@pytest.mark.slow
def test_a_folder_that_compiled_programs_cannot_be_kept_in_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/dev/null/none")
    finished = run(*QUICK, "--config.training.n_iters=10", f"--workdir={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    assert "Error reading persistent compilation cache" in finished.stderr
