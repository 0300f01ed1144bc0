import csv

import pytest
from PIL import Image

from experiments.evaluation import lengths
from experiments.evaluation.figure import Figure

FOUND = {
    0.05: {"test loss": Figure(2.0, 0.3), "recall": Figure(0.5), "density": Figure(1.1)},
    0.1: {"test loss": Figure(1.5, 0.2), "recall": Figure(0.4), "density": Figure(0.9)},
    0.2: {"test loss": Figure(1.6, 0.2), "density": Figure(0.8)},  # recall failed
}


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("test loss", -1),
        ("test latent bits/dim", -1),
        ("frechet_distance(random)", -1),
        ("fid", -1),
        ("test log-likelihood", 1),
        ("precision(inception)", 1),
        ("density", 0),
        ("test bits/dim, error by noise", 0),
    ],
)
def test_the_better_end_of_a_figure_follows_from_its_name(name, sign):
    assert lengths.sign(name) == sign


def test_the_best_length_is_named_with_those_that_cannot_be_told_from_it():
    assert lengths.best(FOUND, "test loss") == "length 0.1 (within one error: 0.2)"
    assert lengths.best(FOUND, "recall") == "length 0.05"


def test_a_table_has_a_row_for_each_length():
    assert lengths.table(FOUND, ["test loss", "recall"]) == [
        "EMA length  test loss       recall",
        "0.05        2.000 +- 0.300  0.500",
        "0.1         1.500 +- 0.200  0.400",
        "0.2         1.600 +- 0.200  -",
    ]


def test_the_figures_are_written_as_a_table_and_a_chart(tmp_path):
    *_, table, chart = lengths.report(FOUND, tmp_path / "ema_length_7", {"step": "7"})
    with open(table) as file:
        rows = list(csv.DictReader(file))
    assert [row["ema_length"] for row in rows] == ["0.05", "0.1", "0.2"]
    assert [float(row["test loss error"]) for row in rows] == [0.3, 0.2, 0.2]
    assert rows[0]["density"] == "1.1"
    assert rows[2]["recall"] == ""
    with Image.open(chart) as image:
        assert image.text["step"] == "7"
