import json

import pytest

from configs import default, digits
from experiments import main
from experiments.commands import train
from experiments.commands.request import Request
from experiments.runs import folder as folders
from experiments.studies import registry
from experiments.studies.posterior import study
from experiments.studies.statistics import table
from samplers import posterior


def make_config(**options):
    config = default.get_config()
    config.study.posterior.update(dims=(2,), nfe=(4,), n_samples=8, n_measurements=2)
    config.study.name = "posterior"
    config.study.posterior.update(methods=("pigdm", "replacement"), **options)
    return config


@pytest.mark.thorough
def test_the_command_needs_neither_a_config_nor_a_run(tmp_path, capsys):
    names = "dims=(2,)", "nfe=(4,)", "n_samples=8", "n_measurements=2", "methods=('pigdm',)"
    options = [f"--config.study.posterior.{name}" for name in names]
    argv = "main", "--mode=study", "--config.study.name=posterior", f"--workdir={tmp_path}"
    main.main([*argv, *options])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| dims | measurement")
    assert [line for line in lines if "| pigdm" in line]
    (path,) = tmp_path.glob("posterior_seed42_*.jsonl")
    rows = [json.loads(row) for row in path.open()]
    assert [row["method"] for row in rows] == ["exact", "pigdm"] * 2
    assert all(row["nfe"] == 4 and row["evaluations"] == 8 for row in rows[1::2])
    assert all(isinstance(row["sliced_wasserstein"], float) for row in rows)
    table = path.with_suffix(".md").read_text().splitlines()
    assert table == lines[: len(table)]
    for k in range(2):
        assert path.with_name(f"{path.stem}_{k}.png").stat().st_size > 1000


def test_samples_that_are_not_finite_are_named_in_the_table():
    result = study.Result(2, "half", "dps", "euler", 4, 8, None, None, None, None)
    assert "not finite" in list(table([result]))[-1]
    assert json.loads(json.dumps(result._asdict()))["mean"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("pidgm",)}, "config.study.posterior.methods 'pidgm' .* mean 'pigdm'"),
        ({"methods": ()}, "config.study.posterior.methods is empty"),
        ({"dims": (1,)}, "config.study.posterior.dims is 1: it must be at least 2"),
        ({"n_samples": 2}, "config.study.posterior.n_samples is 2"),
        ({"n_measurements": 0}, "config.study.posterior.n_measurements is 0"),
        ({"noise_std": 0.0}, "config.study.posterior.noise_std is 0"),
        ({"solvers": ("huen",)}, "did you mean 'heun'"),
        ({"nfe": (1,)}, "nfe is 1: it must be at least 2"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    config = make_config()
    config.study.posterior.update(options)
    with pytest.raises(ValueError, match=message):
        registry.run(Request(config, tmp_path))
    assert not list(tmp_path.iterdir())


def test_every_method_is_compared():
    assert set(default.get_config().study.posterior.methods) == posterior.METHODS.keys()


@pytest.mark.slow
def test_the_images_of_a_run_take_its_folder_alone(tmp_path, capsys):
    config = digits.get_config()
    config.model.update(nf=8, ch_mult=(1,), attn_resolutions=(), num_res_blocks=0)
    config.optim.warmup = 0
    config.training.update(n_iters=2, batch_size=8, log_freq=1, snapshot_freq=1000, at_end=())
    train.run(Request(config, tmp_path))
    options = "nfe=(4,)", "n_measurements=2", "methods=('moment_matching','twisted_smc')"
    main.main(
        [
            "main",
            "--mode=study",
            "--config.study.name=posterior",
            f"--workdir={tmp_path}",
            *(f"--config.study.posterior.{option}" for option in options),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("| half_size")]
    assert folders.has_run(tmp_path)
    (path,) = tmp_path.glob("posterior_*.jsonl")
    rows = [json.loads(row) for row in path.open()]
    assert len(rows) == 2 * 3
    assert all(0 <= row["coverage_50"] <= row["coverage_90"] <= 1 for row in rows)
