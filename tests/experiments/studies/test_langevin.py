import sys

import pytest
from PIL import Image

from experiments.studies import langevin


@pytest.mark.thorough
def test_plain_langevin_gets_the_weights_of_a_mixture_wrong_and_annealed_right(
    tmp_path, capsys, monkeypatch
):
    """Song & Ermon 2019, Section 3.2.2 and Figure 3: the true share is 80%, the starts' 50%."""
    output = tmp_path / "new" / "langevin.png"
    monkeypatch.setattr(sys, "argv", ["langevin", f"--output={output}"])
    langevin.main()
    plain, annealed, path = capsys.readouterr().out.splitlines()
    assert 45 <= int(plain.split("%")[0].split()[-1]) <= 55
    assert 76 <= int(annealed.split("%")[0].split()[-1]) <= 84
    with Image.open(path) as image:
        assert image.info["DigitalSourceType"] == "trainedAlgorithmicMedia"


def test_a_mistake_ends_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["langevin", "--output=langevin.jpeg"])
    with pytest.raises(SystemExit):
        langevin.main()
    assert "it must be a .png file" in capsys.readouterr().err.splitlines()[-1]
