import json

import pytest

from configs import digits, points
from experiments import main
from experiments.build.fields import configs
from experiments.commands.request import Request
from experiments.studies import inspect_data


def test_a_config_alone_is_enough(tmp_path, capsys):
    inspect_data.run(Request(digits.get_config("ve"), tmp_path / "none"))
    printed = capsys.readouterr().out
    assert "1,500 training samples of the shape 8 x 8 x 1" in printed
    header = next(line for line in printed.splitlines() if line.startswith("quantity"))
    assert header.split() == ["quantity", "measured", "config", "advice", "reason"]
    assert "Technique 1" in printed
    assert "Balance of classes: 159 samples of class 0, the largest, to 142 of 6" in printed
    assert not (tmp_path / "none").exists()


def test_a_run_keeps_what_was_found(tmp_path, capsys):
    """By the folder alone, also on the command line."""
    config = points.get_config("mixture")
    configs.save(config, tmp_path)
    main.main(["main", "--mode=inspect", f"--workdir={tmp_path}"])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "inspect.json")
    assert "- Copies: 0 of 20,000" in (tmp_path / "data_card.md").read_text()
    kept = json.loads((tmp_path / "inspect.json").read_text())
    assert kept["measures"]["n"] == 4096
    assert {row["quantity"] for row in kept["advice"]} >= {"SDE", "largest distance"}
    config.model.nf += 1
    with pytest.raises(ValueError, match="belongs to another config"):
        inspect_data.run(Request(config, tmp_path))
