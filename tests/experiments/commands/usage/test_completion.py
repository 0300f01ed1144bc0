"""The script of --help completion, in bash."""

import subprocess

import pytest

from experiments import command_line, main
from experiments.commands.usage import help as usage

ASK = """
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \\t\\n=:'
COMPREPLY=old
_score_sde_jax
echo "${COMPREPLY[*]}"
"""


@pytest.fixture(scope="module")
def script():
    return usage.help_text(dict.fromkeys(main.COMMANDS, ""), command_line.FLAGS, ["completion"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python -m experiments.main --mode=sa", "sample"),
        ("score-sde-jax --workd", "--workdir="),
        ("score-sde-jax --config=configs/digits.py:edm", "edm edm2 edm_classifier"),
        ("score-sde-jax --config.sampl", "--config.sampling."),
        (
            "score-sde-jax --config.sampling.n_st",
            "--config.sampling.n_steps= --config.sampling.n_steps_each=",
        ),
        ("score-sde-jax --workdir=runs/", ""),
        ("python other.py --mode=sa", ""),
    ],
)
def test_bash_completes_the_last_word(script, line, expected):
    command = ["bash", "-c", script + ASK, "bash", line]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.split() == expected.split()
