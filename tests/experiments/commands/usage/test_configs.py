"""Every config and variant is listed, with what its docstring says."""

import re
from pathlib import Path

import named_commands

from configs import cifar10, digits
from experiments.commands.request import Request
from experiments.commands.usage import configs


def test_every_config_and_variant_is_listed(capsys):
    configs.run(Request(None, Path("runs"), None, None, None, None))
    text = capsys.readouterr().out
    for path in (named_commands.ROOT / "configs").glob("*.py"):
        listed = f"configs/{path.name}\n" in text
        assert listed == (path.name not in ("default.py", "published.py", "variational.py")), path
    assert all(re.search(rf"(?m)^    {name}\b", text) for name in digits.VARIANTS)


def test_a_variant_has_the_first_row_of_its_docstring():
    lines = configs.described(cifar10).splitlines()
    assert lines[1] == f"  {cifar10.__doc__.splitlines()[0]}"
    (own,) = (line for line in lines if line.split()[0] == "ve_ncsnpp_continuous")
    assert own.split(None, 1)[1] == "FID 2.38, IS 9.83, parameters 62,758,915 (default)"
    (vp,) = (line for line in configs.described(digits).splitlines() if line.split()[0] == "vp")
    assert vp.endswith("test bits/dim 1.89 +- 0.014 (default)")
    assert "not measured" not in configs.described(digits)
