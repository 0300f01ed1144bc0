import math

import pytest

from experiments.data.inspection import rules
from experiments.data.inspection.measure import Measures


def measures(shape=(32, 32, 3), std=0.5, largest=80.0, nearest=10.0, n=100, total=100):
    return Measures(shape, total, n, std, (std,) * shape[-1], largest, nearest, 1.0, 0, n, None)


def test_data_like_edm_s_get_edm_s_numbers():
    found = measures()
    assert rules.sigma_data(found).value == 0.5
    assert (rules.noise_mean(found).value, rules.noise_std(found).value) == (-1.2, 1.2)
    assert rules.sigma_max(found).value == 80
    assert rules.sigma_min(found, None).value == 0.002
    assert rules.sigma_min(found, 2 / 255).value == pytest.approx(2 / 255 / math.sqrt(12), rel=0.01)


@pytest.mark.parametrize(
    ("shape", "shift"),
    [
        ((64, 64, 3), 0.0),
        ((8, 8, 1), 0.0),
        ((256, 256, 3), math.log(4)),
        ((128, 512, 1), math.log(4)),
        ((4096, 2), 0.0),
        ((32, 64, 32, 1), math.log(4)),
        ((7,), 0.0),
    ],
    ids=str,
)
def test_fine_grids_shift_the_noise_as_simple_diffusion_does(shape, shift):
    """Two standard deviations below the mean stay where they are."""
    mean, std = (rule(measures(shape)).value for rule in (rules.noise_mean, rules.noise_std))
    assert mean == pytest.approx(-1.2 + shift, abs=0.01)
    assert mean - 2 * std == pytest.approx(-3.6, abs=0.02)


def test_the_density_of_noise_moves_with_the_data_s_standard_deviation():
    assert rules.noise_mean(measures(std=1.0)).value == pytest.approx(-1.2 + math.log(2), abs=0.01)


def test_sigma_min_ends_halfway_to_the_nearest_neighbour():
    found = measures(shape=(2,), nearest=0.001)
    assert rules.sigma_min(found, None).value == pytest.approx(0.001 / 2 / math.sqrt(2), rel=0.01)


def test_a_number_from_some_of_the_samples_says_so():
    reason = rules.sigma_max(measures(n=4096, total=50_000)).reason
    assert "4,096 of 50,000 samples" in reason
    assert "Technique 1" in reason


@pytest.mark.parametrize(
    ("largest", "name", "advised"),
    [
        (60, "edm", "edm"),
        (60, "vpsde", "vpsde"),
        (100, "edm", "vpsde"),
        (200, "vpsde", "vesde"),
        (200, "cosine", "vesde"),
        (60, "flow", "edm"),
        (9, "vesde", "vesde"),
    ],
)
def test_the_sde_is_the_config_s_if_its_noise_reaches_the_data(largest, name, advised):
    reaches = {"edm": 80.0, "vpsde": 152.0} | ({"flow": 50.0} if name == "flow" else {})
    assert rules.sde(measures(largest=float(largest)), name, reaches).value == advised


@pytest.mark.parametrize(
    ("shape", "halvings", "said"),
    [
        ((8, 8, 1), 1, "4 x 4"),
        ((32, 32, 3), 3, "4 x 4"),
        ((64, 48, 3), 3, "8 x 6"),
        ((45, 60, 3), 0, "48 x 64 points could be halved 3 times"),
        ((28, 28, 1), 2, "7 x 7"),
        ((256, 2), 6, "4"),
        ((16, 16, 16, 1), 2, "4 x 4 x 4"),
        ((2, 2, 1), 0, "2 x 2"),
        ((30,), 0, "no grid"),
    ],
    ids=str,
)
def test_grids_are_halved_to_four_points_or_a_few_more(shape, halvings, said):
    advice = rules.halvings(shape)
    assert advice.value == halvings
    assert said in advice.reason
