import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import command_line, main
from experiments.build import data, tasks
from experiments.build.components import specs
from experiments.data.prepare import report
from experiments.data.prepare.make import Made


def pictures(folder, n=60, classes=("кот", "пёс")):
    random = np.random.RandomState(0)
    for k in range(n):
        path = folder / classes[(k % 3) // 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 256, (24, 20, 3)).astype(np.uint8)).save(path)
    return folder


def run(*flags):
    main.main(["main", "--mode=prepare", *flags])


@pytest.mark.parametrize("shape", [(28, 28, 1), (48, 64, 3), (25, 25, 3), (256, 256, 3)], ids=str)
def test_the_command_s_network_fits_images_of_any_size(monkeypatch, shape):
    """The folder's name has a space, which the shell must not see."""
    monkeypatch.chdir(main.__file__.rpartition("/experiments/")[0])
    argv = shlex.split(report.next_command(Path("/tmp/a b"), shape, 3))
    config = command_line.parse(["main", *argv[3:]], main.COMMANDS).config
    assert specs.data_shape(config) == shape
    tasks.task(config)


@pytest.mark.parametrize("size", ["16", "(16, 32)"])
def test_the_report_ends_with_the_command_that_trains(tmp_path, capsys, monkeypatch, size):
    folder = pictures(tmp_path / "my pictures")
    (folder / "notes.md").touch()
    run(f"--data={folder}", f"--config.prepare.size={size}", "--config.prepare.crop=none")
    *printed, command = capsys.readouterr().out.splitlines()
    output = tmp_path / "my pictures-prepared"
    assert printed[-1] == str(output / "samples.png")
    assert any("2 classes, images to train on: 0 (кот) " in line for line in printed)
    assert "left out: 1 no image by its name: notes.md" in printed
    kept = json.loads((output / "report.json").read_text())
    assert sum(kept["images"].values()) == 60
    assert kept["sizes"]["largest"] == [20, 24]
    with Image.open(output / "samples.png") as picture:
        assert "Generated" not in json.dumps(picture.info)
    argv = shlex.split(command)
    assert argv[:3] == ["python", "-m", "experiments.main"]
    monkeypatch.chdir(main.__file__.rpartition("/experiments/")[0])
    given = command_line.parse(["main", *argv[3:]], main.COMMANDS)
    tasks.task(given.config)
    found = data.images(given.config)
    assert (found.classes, given.config.data.num_classes) == (("кот", "пёс"), 2)


def test_a_zip_is_prepared_beside_it_and_a_config_may_hold_the_options(tmp_path, capsys):
    pictures(tmp_path / "in")
    path = shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "in")
    file = tmp_path / "own.py"
    file.write_text(
        "from configs import default\n\n\ndef get_config():\n    config = default.get_config()\n"
        "    config.prepare.size, config.prepare.channels = (8,), 1\n    return config\n"
    )
    run(f"--data={path}", f"--config={file}")
    assert np.load(tmp_path / "x-prepared" / "train.npy").shape[1:] == (8, 8, 1)
    assert "--config.data.num_channels=1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --data=FOLDER"),
        (["--data=none"], "--data=none is neither a folder"),
        (["--data=none", "--config.prepare.crop=x"], "config.prepare.crop 'x' is unknown"),
        (["--data=x", "--workdir=y"], "--workdir does nothing in --mode=prepare: give --output"),
        (["--data=x", "--config.prepare.sizes=8"], "did you mean config.prepare.size"),
        (["--data=x", "--config.prepare.processes=-1"], "config.prepare.processes"),
    ],
)
def test_mistakes_are_refused(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(*flags)
    assert not list(tmp_path.iterdir())


def test_other_modes_have_no_data_and_output():
    for flag in ("data", "output"):
        with pytest.raises(ValueError, match=f"--{flag} does nothing in --mode=train"):
            main.main(["main", "--config=configs/digits.py", f"--{flag}=x"])


def test_the_picture_shows_large_images_smaller(tmp_path):
    images = np.zeros((10, 160, 320, 3), np.uint8)
    np.save(tmp_path / "train.npy", images)
    with Image.open(report.write(tmp_path, {})) as picture:
        assert picture.size == (8 * 129 - 1, 2 * 65 - 1)


def test_the_report_counts_classes_sizes_and_skew():
    labels: dict = {"train": ["a"] * 30 + ["b"] * 10, "test": ["a"] * 4 + ["c"]}
    made = Made((4, 4, 3), labels, {"damaged": [f"{k}.png" for k in range(5)]})
    made.sizes.update({(4, 4): 30, (9, 5): 15})
    about = report.facts(made, ("a note",))
    printed = "\n".join(report.lines(about, captioned=False))
    assert "40 images to train on and 5 to test on, 4 x 4 x 3" in printed
    assert "size of the files: 4 x 4 to 9 x 5, 2 sizes" in printed
    assert "classes without images to train on: c" in printed
    assert "left out: 5 damaged: 0.png, 1.png, 2.png ..." in printed
    assert printed.endswith("a note")
    del labels["test"][-1]
    printed = "\n".join(report.lines(report.facts(made, ()), captioned=True))
    assert "the largest class has 3.0 times the smallest one's" in printed
    assert "captions: 0 images have none" in printed


def test_names_that_no_text_can_hold_are_printed_and_written(tmp_path, capsys):
    folder = pictures(tmp_path / "in")
    (folder / "кот" / "bad\udcff.png").write_bytes(b"no image")
    run(f"--data={folder}", "--config.prepare.size=8")
    assert "bad\\udcff.png" in capsys.readouterr().out
    assert "bad" in (tmp_path / "in-prepared" / "report.json").read_text()
