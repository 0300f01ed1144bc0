import sys

import pytest
from PIL import Image

from experiments.studies import score_matching


@pytest.mark.slow
def test_explicit_and_sliced_find_the_score_that_denoising_finds_and_need_noise(
    tmp_path, capsys, monkeypatch
):
    """Errors of as many steps; the slope across a line is 1 / noise^2 = 100, or has no bound."""
    monkeypatch.setattr(sys, "argv", ["score_matching", f"--output={tmp_path / 'a.png'}"])
    score_matching.main()
    _, *lines, path = capsys.readouterr().out.splitlines()
    rows = {name: cells for name, *cells in (line.split(" | ") for line in lines) if cells}
    errors = {name: [float(cell) for cell in cells[:6]] for name, cells in rows.items()}
    for name in ("explicit", "sliced", "sliced_vr"):
        assert max(errors[name]) < 0.04
        assert sum(errors[name]) < 5 * sum(errors["denoising"])
    costs = {name: float(cells[-1]) for name, cells in rows.items()}
    assert costs["explicit"] > 2 * costs["sliced"] > 2 * costs["denoising"] / 0.9
    for line in lines:
        if line.startswith("slope"):
            last, most = (float(part.split()[0]) for part in line.split(": ")[1].split(", "))
            assert 70 < last < 130 if "noise 0.1," in line else most > 1000
    with Image.open(path) as image:
        assert image.info["DigitalSourceType"] == "trainedAlgorithmicMedia"


def test_a_mistake_ends_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["score_matching", "--output=estimates.jpeg"])
    with pytest.raises(SystemExit):
        score_matching.main()
    assert "it must be a .png file" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.thorough
def test_the_error_of_the_known_score_is_0_and_that_of_none_its_mean_square():
    """At t = 0.8, where x_t is nearly N(0, I): sigma^2 E s^2 is nearly 1."""
    exact = score_matching.MIXTURE.score_fn(score_matching.SDE)
    assert score_matching.error(exact, 0.8) == 0
    assert score_matching.error(lambda x, t: 0 * x, 0.8) == pytest.approx(1, rel=0.05)
