import os
import sys

import pytest

from experiments.benchmark import start

COMMAND = """#!{python}
import os, pathlib, sys, time
workdir = pathlib.Path(sys.argv[-1].removeprefix("--workdir="))
assert sys.argv[1:4] == ["-m", "experiments.main", "--config=it"]
cache = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
(cache / "used").touch()
(workdir / "metrics.jsonl").write_text('{{"step": 1}}\\n')
(workdir / "samples").mkdir()
{then}
time.sleep(60)
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command(then): the command that is started is a script that logs a step, then runs `then`."""

    def write(then):
        path = tmp_path / "command"
        path.write_text(COMMAND.format(python=sys.executable, then=then))
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return write


def test_the_command_is_watched_to_its_first_picture_and_ended(tmp_path, command):
    command("(workdir / 'samples' / 'a.png').touch(); (cache / 'id').write_text(str(os.getpid()))")
    seconds = start.start(["--config=it"], tmp_path)
    assert 0 < seconds["first step"] <= seconds["first picture"]
    assert (tmp_path / "used").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "id").read_text()), 0)


def test_a_command_that_ends_early_is_an_error_with_its_output(tmp_path, command):
    command("sys.exit('no such thing')")
    with pytest.raises(OSError, match=r"ended with 1\n(.|\n)*no such thing"):
        start.start(["--config=it"], tmp_path)
