import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from configs import digits
from experiments.build import data
from experiments.build.fields import configs


def config(path, **changes):
    made = digits.get_config()
    made.data.update(dataset="folder", path=str(path), cache=f"{path}-cache", **changes)
    return made


def images(folder, seed=0, n=24):
    """A folder of n images of 8 x 8 pixels in two classes."""
    draw = np.random.RandomState(seed)
    for k in range(n):
        path = folder / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.randint(0, 256, (8, 8), np.uint8)).save(path)
    return folder


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has begun with the images in tmp_path / "set"."""
    folder, ours = tmp_path / "run", config(images(tmp_path / "set"))
    data.claimed(ours, folder)
    configs.save(ours, folder)
    return folder


def test_data_that_moved_are_the_same(run, tmp_path, monkeypatch):
    """To another folder, to one that is named from here, into an archive."""
    scratch = shutil.move(tmp_path / "set", tmp_path / "scratch")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(scratch.rglob("*.png")):
            archive.write(path, f"set/{path.relative_to(scratch)}")
    monkeypatch.chdir(scratch)
    for path in (scratch, "../scratch", tmp_path / "set.zip"):
        ours = config(path)
        configs.check_same(ours, run, configs.RESUME)
        assert len(data.claimed(ours, run).train) == 22


@pytest.mark.parametrize("change", ["pixels", "number", "labels"])
def test_other_data_under_the_same_path_are_refused(run, tmp_path, change):
    folder = tmp_path / "set"
    if change == "pixels":
        shutil.copy(folder / "a" / "0.png", folder / "b" / "3.png")
    elif change == "number":
        (folder / "a" / "4.png").unlink()
    else:
        (folder / "a").rename(folder / "c")
    before = (run / data.RECORD).read_text()
    with pytest.raises(
        ValueError, match=r"the data in .*set.* are not those that the run in .*run"
    ):
        data.claimed(config(folder), run)
    assert (run / data.RECORD).read_text() == before


def test_data_of_a_start_that_failed_bind_nobody(tmp_path):
    """Such as data without labels, which training refuses."""
    data.claimed(config(images(tmp_path / "one")), tmp_path / "run")
    data.claimed(config(images(tmp_path / "other", seed=1)), tmp_path / "run")


def test_a_run_from_before_there_were_digests_takes_what_it_finds(run, tmp_path):
    """So does one whose record the user deletes, as the error says."""
    others = config(images(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match=rf"delete {run / data.RECORD}"):
        data.claimed(others, run)
    (run / data.RECORD).unlink()
    data.claimed(others, run)
    assert (run / data.RECORD).exists()


def test_an_archive_of_arrays_is_known_by_its_arrays(tmp_path):
    x = np.random.RandomState(0).randint(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    ours = config(tmp_path / "a.npz")
    ours.data.dataset = "npz"
    np.savez(tmp_path / "a.npz", train=x[:12], test=x[12:])
    first = data.identity(ours, data.images(ours))
    np.savez_compressed(tmp_path / "a.npz", train=x[:12], test=x[12:])
    assert data.identity(ours, data.images(ours)) == first
    x[3, 2, 1, 0] ^= 1
    np.savez(tmp_path / "a.npz", train=x[:12], test=x[12:])
    assert data.identity(ours, data.images(ours)) != first
