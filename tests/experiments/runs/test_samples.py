import numpy as np
import pytest

from experiments.runs.samples import read_about, read_samples, write_samples


def test_samples_come_back_with_their_settings(tmp_path):
    path, about = tmp_path / "new" / "generated.npz", {"model": "a1", "shape": [2, 2]}
    write_samples(path, about, samples=np.arange(4), images=np.ones(4))
    assert read_about(path) == about
    found, samples = read_samples(path)
    assert found == about
    np.testing.assert_array_equal(samples, np.arange(4))


def test_other_files_are_refused(tmp_path):
    text, other = tmp_path / "a.npz", tmp_path / "b.npz"
    text.write_text("text")
    np.savez(other, samples=np.arange(4))
    for path in (tmp_path / "none.npz", text, other):
        with pytest.raises(ValueError, match=r"is no file of samples: make one .* --mode=generate"):
            read_about(path)


def test_settings_that_are_no_json_are_refused_in_one_line(tmp_path):
    np.savez(tmp_path / "a.npz", samples=np.zeros(4), about="text")
    with pytest.raises(
        ValueError, match=r"a\.npz cannot be read: Expecting value.*; give a file of"
    ):
        read_about(tmp_path / "a.npz")


def test_damaged_samples_are_refused_in_one_line(tmp_path):
    path = tmp_path / "generated.npz"
    write_samples(path, {}, samples=np.zeros(400))
    content = path.read_bytes()
    path.write_bytes(content[:300] + b"?" + content[301:])
    with pytest.raises(ValueError, match=r"'samples', cannot be read: Bad CRC.*; give a file of"):
        read_samples(path)
