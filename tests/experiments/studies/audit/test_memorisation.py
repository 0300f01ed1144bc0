import json

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist
from scipy.stats import hypergeom

from experiments import main
from experiments.commands.request import Request
from experiments.runs import card
from experiments.studies import registry
from experiments.studies.audit import memorisation
from experiments.studies.audit.memorisation import Nearest

RANDOM = np.random.RandomState(0)


def test_the_nearest_training_sample_is_found_over_blocks_and_mirror_images():
    points, train = RANDOM.randn(20, 3), RANDOM.randn(50, 3)
    both, copies = memorisation.nearest([points, train[[7, 3]]], [[train[:13]], [train[13:]]])
    distances = cdist(points, train)
    np.testing.assert_array_equal(both.row, distances.argmin(axis=1))
    np.testing.assert_allclose(both.distance, distances.min(axis=1), atol=1e-6)
    np.testing.assert_array_equal(copies, [[0, 0], [7, 3]])
    images = RANDOM.randint(0, 9, (5, 4, 4, 1))

    def rows(values):
        return values.reshape(len(values), -1).astype(float)

    mirrored = rows(images[[2], :, ::-1])
    for flipped in (False, True):
        found = memorisation.blocks(images, rows, "images", flipped)
        (near,) = memorisation.nearest([mirrored], found)
        assert (near.distance[0] == 0) == flipped
    assert near.row[0] == 2


def test_shares_are_those_within_the_held_out_quantile():
    """One of ten samples of class 0 is a copy, and four of ten of class 1."""
    held_out = Nearest(np.linspace(1, 2, 101), np.zeros(101, int))
    distance = np.full(20, 1.5)
    distance[[0, 10, 11, 12, 13]] = 0.0
    labels = np.repeat([0, 1], 10)
    own = Nearest(distance, np.zeros(20, int))
    results = list(memorisation.compare("pixels", own, held_out, 0.05, labels))
    assert [(result.label, result.n, result.within, result.copies) for result in results] == [
        *(("all", 20, 5, 5), ("0", 10, 1, 1), ("1", 10, 4, 4)),
    ]
    both, _, _ = results
    assert (both.share, both.median) == (0.25, 1.0)
    assert both.low == pytest.approx(0.0866, abs=1e-4)  # Clopper & Pearson's, from tables
    assert both.high == pytest.approx(0.4910, abs=1e-4)
    chance = hypergeom(121, 11, 20).sf(4)  # six of the held-out data are within
    assert both.p == pytest.approx(chance)
    (text,) = memorisation.figures(results, 0.05).values()
    assert text.startswith("25.0% (8.7% to 49.1%; p = 0.0")


def test_copies_are_found_among_data_that_repeat_themselves():
    """The threshold is 0, since a twentieth of the held-out data repeats training data."""
    held_out = Nearest(np.where(np.arange(100) < 5, 0.0, 1.0), np.zeros(100, int))
    copies = Nearest(np.zeros(100), np.zeros(100, int))
    (found,) = memorisation.compare("pixels", copies, held_out, 0.01, None)
    assert (found.share, found.copies, found.median) == (1, 100, 0)
    assert found.p < 1e-10
    (same,) = memorisation.compare("pixels", held_out, held_out, 0.01, None)
    assert same.p > 0.5


@pytest.mark.thorough
def test_a_run_takes_its_folder_alone(digits_run, capsys):
    folder = digits_run.folder
    name = "memorisation"
    argv = "main", "--mode=study", f"--config.study.name={name}", f"--workdir={folder}"
    main.main([*argv, "--config.study.memorisation.n_samples=20"])
    lines = capsys.readouterr().out.splitlines()
    (path,) = folder.glob("memorisation_*.jsonl")
    rows = [json.loads(line) for line in path.open()]
    assert len(rows) == 2 * (1 + 10)
    assert sum(row["n"] for row in rows if row["label"] != "all") == 2 * 20
    table = path.with_suffix(".md").read_text().splitlines()
    assert table == lines[: len(table)]
    for space in ("pixels", "random_conv_v1"):
        picture = Image.open(folder / f"{path.stem}_{space}.png")
        assert np.asarray(picture).std() > 1
    text = (folder / "checkpoints" / "4" / card.CARD).read_text()
    assert "samples near training data by pixels (held-out: 1.0%) | " in text


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "config.study.memorisation.n_samples is 0: it must be at least 1"),
        ({"level": 0.0}, "config.study.memorisation.level is 0.0"),
    ],
)
def test_impossible_options_are_refused(digits_run, options, message):
    config = digits_run.config
    config.study.name = "memorisation"
    config.study.memorisation.update(options)
    with pytest.raises(ValueError, match=message):
        registry.run(Request(config, digits_run.folder))
