"""Whole commands, as a user types them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from discriminators import config_of, model_config, save_run, save_samples
from PIL import Image

from experiments import main
from experiments.build.fields import configs
from experiments.commands import train
from experiments.commands.request import Request
from experiments.evaluation import metrics as evaluation
from experiments.evaluation import reference
from experiments.pipeline import draw, show
from experiments.runs import files
from experiments.runs import folder as folders
from experiments.runs.parts import digest

ROOT = Path(__file__).parents[2]
QUICK = (
    f"--config={ROOT}/configs/points.py:moons",
    "--config.model.nf=8",
    "--config.model.num_res_blocks=1",
    "--config.training.batch_size=64",
    "--config.training.log_freq=50",
    "--config.training.snapshot_freq_for_preemption=50",
    "--config.training.sinks=('jsonl',)",
    "--config.training.at_end=('likelihood',)",
    "--config.eval.batch_size=2000",
    "--config.eval.rtol=0.1",
    "--config.eval.atol=0.1",
)


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.main", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(*arguments):
    """Runs a command in this process."""
    main.main(["experiments.main", *arguments])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leaves out what takes seconds: the density in pictures of points, statistics of all pairs."""
    monkeypatch.setattr(show, "_density", lambda *_: np.zeros((2, 2)))
    for module in (evaluation, reference):
        monkeypatch.setattr(module, "PAIRED", 200)


@pytest.fixture
def printed(capsys):
    """A function that runs a command here and gives the lines that it prints."""

    def run(*arguments):
        capsys.readouterr()
        command(*arguments)
        return capsys.readouterr().out.splitlines()

    return run


def metrics(folder):
    return files.read_lines(folder / "metrics.jsonl")


def wait_for_step(folder, step, process):
    """Waits until the run has logged that step."""
    while not any(line["step"] >= step for line in metrics(folder)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param("kill", marks=pytest.mark.slow)])
def test_a_run_that_is_ended_continues_to_the_end(tmp_path, number):
    """A signal saves and exits with 0; a kill costs the steps since the last checkpoint."""
    process = start(*QUICK, "--config.training.n_iters=1000000", f"--workdir={tmp_path}")
    wait_for_step(tmp_path, 1000 if number == "kill" else 100, process)
    process.send_signal(signal.SIGKILL if number == "kill" else number)
    _, errors = process.communicate(timeout=60)
    assert "step 100 of 1000000: loss " in errors
    assert "time left" in errors
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    saved = max(int(name) for name in names if name.isdigit())
    assert saved >= 100
    if number != "kill":
        assert process.returncode == 0, errors
        assert f"stopped and saved at step {saved}: run the same command to go on" in errors

    again = f"--config.training.n_iters={saved + 20}", f"--workdir={tmp_path}"
    process = start(*QUICK, *again)
    text, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"from step {saved}" in errors
    bits, curve = text.splitlines()
    assert re.fullmatch(r"test bits/dim -?\d+\.\d{3} \+- \d\.\d{3} \(nfe \d+\)", bits)
    assert Path(curve).is_file()
    steps = [line["step"] for line in metrics(tmp_path)]
    assert steps == [*range(50, saved + 20, 50), saved + 20]


@pytest.mark.thorough
def test_a_mistake_ends_the_process_in_one_line(tmp_path):
    process = start(*QUICK, "--config.training.n_iter=5", f"--workdir={tmp_path / 'new'}")
    text, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert text == ""
    (line,) = errors.splitlines()
    assert line.startswith("error: config.training.n_iter does not exist: did you mean config.tra")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.model.beta_min=30."], "0 < beta_min < beta_max"),
        (["--config.model.ch_mult=(1,1,1,1,1)"], "cannot be halved"),
        (["--config.sampling.method=heun", "--config.sampling.snr=0.1"], "has no such option"),
        (["--mode=import"], "needs --checkpoint: a published file"),
        (["--mode=sample"], "holds no checkpoints: train first, or give the --workdir"),
        (["--config.data.dataset=npz", "--config.data.path=/none"], "/none"),
        (["--config.data.dataset=moons"], "are points, not images"),
        (["--config.training.at_end=('pictres',)"], "did you mean 'pictures'"),
    ],
)
def test_an_impossible_config_leaves_nothing_behind(tmp_path, arguments, message):
    flags = f"--config={ROOT}/configs/digits.py", f"--workdir={tmp_path / 'new'}"
    with pytest.raises(ValueError, match=message):
        command(*flags, *arguments)
    assert not (tmp_path / "new" / "config.json").exists()


def test_a_classifier_has_no_samples(tmp_path):
    flags = f"--config={ROOT}/configs/digits.py:classifier", f"--workdir={tmp_path / 'new'}"
    with pytest.raises(ValueError, match="a classifier, which has no samples: give a score model"):
        command(*flags, "--mode=sample")


@pytest.mark.thorough
def test_a_folder_without_a_readable_checkpoint_is_refused(points_run):
    workdir = f"--workdir={points_run.folder}"
    for path in (points_run.folder / "checkpoints").glob("*/*/*"):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(ValueError, match=r"none of the checkpoints \[20, 10\] in .* can be read"):
        command(workdir, "--mode=sample")
    shutil.rmtree(points_run.folder / "checkpoints")
    with pytest.raises(ValueError, match="holds no checkpoints: train first"):
        command(workdir, "--mode=sample")


@pytest.mark.thorough
def test_one_training_at_a_time_in_a_folder(points_run):
    with (
        folders.locked(points_run.folder),
        pytest.raises(
            ValueError, match=r"another command is training in .*: wait for it, or choose"
        ),
    ):
        command(f"--workdir={points_run.folder}", "--config.training.n_iters=30")


def contents(folder):
    """The bytes of every file that a command may have written, by its path."""
    names = "samples", "evaluation", "*.csv", "*.jsonl", "ablation*", "exposure_bias*"
    found = (path for name in names for top in folder.glob(name) for path in (top, *top.rglob("*")))
    return {path: path.read_bytes() for path in found if path.is_file()}


@pytest.mark.thorough
def test_another_seed_gives_other_files_and_overwrites_none(points_run, printed):
    """Likelihoods are written for each sample, and their mean is printed and in the model card."""
    folder, workdir = points_run.folder, f"--workdir={points_run.folder}"
    modes = [["--mode=sample", "--config.sampling.arrays=True"], ["--mode=likelihood"]]
    modes.append(["--mode=evaluate", "--config.eval.enable_bpd=False"])
    first, line, figures = (printed(workdir, *mode) for mode in modes)
    before = contents(folder)
    del before[folder / "evaluation.jsonl"]  # gets a second line
    check_likelihoods(*line[:2], card=(folder / "checkpoints" / "20" / "model_card.md").read_text())
    second, other_line, others = (printed(workdir, *mode, "--config.seed=7") for mode in modes)
    after = contents(folder)
    assert {path: after[path] for path in before} == before
    assert not set(first) & set(second)
    assert line[0] != other_line[0]
    assert not set(figures) & set(others)
    names = [figure.removeprefix("step 20: ").split()[0] for figure in figures]
    assert names == ["test", *(f"{name}(coordinates)" for name in QUALITY)]
    one, other = files.read_lines(folder / "evaluation.jsonl")
    assert (one["seed"], other["seed"]) == (42, 7)
    assert one["test loss"] != other["test loss"]


QUALITY = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")


def check_likelihoods(table, line, card):
    index, bits = np.loadtxt(table, delimiter=",", skiprows=1).T
    assert list(index) == list(range(2000))
    mean, error = float(line.split()[2]), float(line.split()[4])
    assert bits.mean() == pytest.approx(mean, abs=6e-4)
    assert bits.std() / np.sqrt(2000) == pytest.approx(error, abs=6e-4)
    assert f"| test bits/dim | {line.removeprefix('test bits/dim ')} | 20 |" in card


@pytest.mark.thorough
def test_samples_are_drawn_once_for_their_picture_and_files(digits_run, printed, monkeypatch):
    drawn, original = [], draw.draw_all
    monkeypatch.setattr(draw, "draw_all", lambda *a: drawn.append(1) or original(*a))
    options = "--label=3", "--label=5", "--config.sampling.single=True"
    workdir = f"--workdir={digits_run.folder}"
    lines = printed(workdir, "--mode=sample", *options, "--config.sampling.arrays=True")
    picture, path, folder, arrays = map(Path, lines)
    assert len(drawn) == 1
    assert picture.is_file()
    assert path.is_file()
    images = np.load(arrays)["images"]
    single = [np.asarray(Image.open(file)) for file in sorted(folder.iterdir())]
    np.testing.assert_array_equal(single, images[..., 0])
    settings = json.loads(picture.with_suffix(".json").read_text())
    assert any("labels=(3, 5)" in condition for condition in settings["conditions"])


@pytest.mark.thorough
def test_samples_that_are_there_are_not_drawn_again(digits_run, printed, monkeypatch):
    """Others are: more of them, of another seed, or where a file is gone."""
    flags = f"--workdir={digits_run.folder}", "--mode=sample", "--config.sampling.single=True"
    flags = *flags, "--config.sampling.arrays=True"
    lines, original = printed(*flags), draw.draw_all
    before = {path: Path(path).stat().st_mtime_ns for path in lines}
    drawn = []
    monkeypatch.setattr(draw, "draw_all", lambda *a: drawn.append(1) or original(*a))
    assert printed(*flags) == lines
    assert {path: Path(path).stat().st_mtime_ns for path in lines} == before
    assert not drawn
    (Path(lines[2]) / "000001.png").unlink()
    assert printed(*flags) == lines
    assert len(drawn) == 1
    printed(*flags, "--config.sampling.n_samples=5")
    printed(*flags, "--config.seed=9")
    assert len(drawn) == 3
    assert not list(digits_run.folder.rglob("*.part"))


@pytest.mark.thorough
def test_a_prompt_needs_a_model_with_texts(digits_run):
    with pytest.raises(ValueError, match="but the model knows no text"):
        command(f"--workdir={digits_run.folder}", "--mode=sample", "--prompt=a", "--prompt=b")


@pytest.mark.thorough
def test_a_run_of_the_version_before_is_sampled_and_scored(points_run, printed):
    workdir = f"--workdir={points_run.folder}"
    old = json.loads((ROOT / "tests/golden/config_v1.json").read_text())["moons_tiny"]
    (points_run.folder / "config.json").write_text(json.dumps(old))
    config = configs.load(points_run.folder)
    config.training.at_end = ()  # which the version before did not have
    config.ablate = points_run.config.ablate  # whose grids are longer now
    assert config.sampling.method == "predictor_corrector"
    config.sampling = points_run.config.sampling  # by another sampler now
    assert config == points_run.config
    assert all(Path(line).is_file() for line in printed(workdir, "--mode=sample"))
    assert printed(workdir, "--mode=likelihood")[1].startswith("test bits/dim ")


@pytest.mark.thorough
def test_a_run_that_was_moved_with_the_run_that_it_refers_to_continues(tmp_path, monkeypatch):
    """A discriminator needs the weights of a model, and a set of its samples."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model = Path("runs/model")
    save_samples(model, model=digest(save_run(model_config(), model)))
    config = config_of(model, pretrained=str(model))
    config.training.update(n_iters=1, eval_freq=5)
    train.run(Request(config, Path("runs/discriminator")))
    (tmp_path / "here" / "runs").rename(tmp_path / "there")
    command(f"--workdir={tmp_path / 'there' / 'discriminator'}", "--config.training.n_iters=2")
    assert (tmp_path / "there" / "discriminator" / "checkpoints" / "2").is_dir()

    model, workdir = tmp_path / "there" / "model", f"--workdir={tmp_path / 'there/discriminator'}"
    model.rename(tmp_path / "alone")
    monkeypatch.chdir(tmp_path)
    moved = "--config.model.pretrained=alone", "--config.data.generated=alone/generated.npz"
    command(workdir, "--config.training.n_iters=3", *moved)
    assert (tmp_path / "there" / "discriminator" / "checkpoints" / "3").is_dir()
    (tmp_path / "other").mkdir()
    save_samples(tmp_path / "other", model="another")
    with pytest.raises(ValueError, match="was trained on other samples"):
        command(workdir, "--config.data.generated=other/generated.npz", moved[0])


@pytest.mark.thorough
def test_a_finished_run_prints_its_reports_again(points_run, printed, monkeypatch):
    flags = f"--workdir={points_run.folder}", "--config.training.at_end=('likelihood',)"
    lines = printed(*flags)
    assert [line.split()[0] for line in lines] == ["test", lines[-1]]

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(train.tasks.ScoreModel, "likelihood", fail)
    assert printed(*flags) == lines
    assert printed(flags[0], "--config.training.at_end=()") == lines[1:]
    with pytest.raises(AssertionError, match="computed again"):
        command(*flags, "--config.eval.rtol=0.2")


OTHERS = {
    "generate": (),
    "stats": (),
    "plan": (),
    "inspect": (),
    "exposure_bias": ("solvers=('euler',)", "nfe=(4,)", "n_samples=32"),
    "benchmark_solvers": ("--config.eval.num_samples=32",),
    "ablate": ("solvers=('euler',)", "nfe=(4,)", "n_samples=64", "scales=(1.01,)"),
}
SLOW = {"benchmark_solvers", "ablate", "exposure_bias"}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=[pytest.mark.slow] * (mode in SLOW)) for mode in OTHERS]
)
def test_every_other_command_takes_the_folder_of_a_run_alone(points_run, printed, mode):
    options = [
        option if option.startswith("--") else f"--config.{mode}.{option}"
        for option in OTHERS[mode]
    ]
    lines = printed(f"--workdir={points_run.folder}", f"--mode={mode}", *options)
    assert lines
    paths = [Path(line) for line in lines if line.startswith("/")]
    assert all(path.is_file() for path in paths if ":" not in path.name)
    assert len(contents(points_run.folder)) > (mode in SLOW)


def test_a_full_disk_ends_in_one_line(monkeypatch):
    """orbax wraps the system's message in a ValueError."""

    def fail(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error]")

    monkeypatch.setattr(main, "main", fail)
    with pytest.raises(SystemExit, match="error: the disk is full; the checkpoint before is good"):
        main.run()


@pytest.mark.parametrize("own", [False, True])
def test_compiled_programs_are_kept_where_the_user_says(monkeypatch, own):
    kept = {}
    monkeypatch.setattr(main, "main", lambda _: None)
    monkeypatch.setattr(main.jax.config, "update", kept.__setitem__)
    for name in main.COMPILED:
        monkeypatch.delenv(name.upper(), raising=False)
    if own:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "own")
    main.run()
    assert kept.pop("jax_compilation_cache_dir", "own").endswith("own" if own else "/xla")
    assert kept == {"jax_persistent_cache_min_compile_time_secs": 0.1}


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/dev/null/none")
    process = start(*QUICK, "--config.training.n_iters=10", f"--workdir={tmp_path}")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Error reading persistent compilation cache" in errors
