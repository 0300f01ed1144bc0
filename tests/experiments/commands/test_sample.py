import pytest

from experiments.commands import sample, likelihood


def test_a(points_run, digits_run, capsys):
    for r in points_run, digits_run:
        sample.run(r.request())
        likelihood.run(r.request())
    print(capsys.readouterr().out)
    assert 0
