import re

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training.averages import snapshots
from experiments.training.averages.power import PowerAverage
from experiments.training.averages.power_function import beta, gamma_of
from experiments.training.averages.snapshots import Source

LENGTHS = (0.05, 0.1)
STEPS = 320
RANDOM = np.random.RandomState(0)
THETA = np.cumsum(RANDOM.randn(STEPS, 3, 4), axis=0) + 30  # a random walk


def tracked(length):
    """The average after each step, by its recurrence."""
    average, found = np.zeros(THETA.shape[1:]), []
    for t, new in enumerate(THETA, 1):
        kept = beta(gamma_of(length), t)
        average = kept * average + (1 - kept) * new
        found.append(average)
    return found


TRACKED = {length: tracked(length) for length in (*LENGTHS, 0.03, 0.075, 0.15)}


def tree(length, step):
    return {"layer": {"kernel": jnp.asarray(TRACKED[length][step - 1], jnp.float32)}}


@pytest.fixture
def folder(tmp_path):
    """A run's folder with 16 snapshots."""
    for step in range(20, STEPS + 1, 20):
        snapshots.write(tmp_path, step, LENGTHS, [tree(length, step) for length in LENGTHS])
    return tmp_path


@pytest.mark.parametrize("length", [0.03, 0.075, 0.15])
def test_sixteen_snapshots_in_float16_give_averages_within_a_thousandth(folder, length):
    made = snapshots.average(snapshots.stored(folder), length)["layer/kernel"]
    direct = TRACKED[length][-1]
    assert made.dtype == np.float32
    assert np.abs(made - direct).max() < 1e-3 * np.abs(direct).max()


def test_a_snapshot_keeps_its_step_and_lengths_and_half_the_bytes(folder):
    found = snapshots.stored(folder)
    assert [source.step for source in found] == list(range(20, STEPS + 1, 20))
    assert {source.lengths for source in found} == {LENGTHS}
    for length, arrays in zip(LENGTHS, found[3].read(), strict=True):
        assert arrays["layer/kernel"].dtype == np.float16
        np.testing.assert_allclose(arrays["layer/kernel"], TRACKED[length][79], rtol=5e-4)


def test_numbers_beyond_float16_stay_as_they_are(tmp_path):
    params = {"frequencies": np.float32([1e5, 1.0]), "gain": np.float32(0.5)}
    snapshots.write(tmp_path, 1, (0.1,), [params])
    (arrays,) = snapshots.stored(tmp_path)[0].read()
    np.testing.assert_array_equal(arrays["frequencies"], params["frequencies"])
    assert arrays["gain"].shape == ()


def test_an_average_before_the_end_is_of_the_snapshots_before_it(folder):
    made = snapshots.average(snapshots.stored(folder)[:12], 0.075)["layer/kernel"]
    direct = TRACKED[0.075][239]
    assert np.abs(made - direct).max() < 1e-3 * np.abs(direct).max()


@pytest.mark.parametrize("length", [0.005, 0.288])
def test_a_length_that_the_snapshots_cannot_give_is_refused_with_the_range(folder, length):
    with pytest.raises(ValueError, match=r"is 0\.\d+, .*4 snapshots .* from 0\.0\d+ to 0\.\d+, or"):
        snapshots.average(snapshots.stored(folder)[-4:], length)


def ranges(sources):
    """The lengths that these sources can give, as the error for an impossible one states them."""
    with pytest.raises(ValueError, match=r"from .* to") as error:
        snapshots.shares(sources, 0.001)
    return re.findall(r"from ([\d.]+) to ([\d.]+)", str(error.value))


@pytest.mark.parametrize(
    ("lengths", "steps"),
    [
        (LENGTHS, (260, 280, 300, 320)),
        (LENGTHS, (*range(28, 900, 28), 900)),
        ((0.01, 0.2), (100,)),
    ],
)
def test_all_lengths_of_that_range_can_be_given(lengths, steps):
    sources = [Source(step, lengths, list) for step in steps]
    for least, most in ranges(sources):
        for length in np.linspace(float(least), float(most), 20):
            assert snapshots.shares(sources, float(length)).sum() == pytest.approx(1)


@pytest.mark.parametrize("length", [0.0022, 0.005, 0.012])
def test_lengths_that_rounding_to_float16_spoils_are_refused(length):
    """At 0.0022 the profile is right, but the shares, of both signs, add up to 2890 in size."""
    sources = [Source(step, LENGTHS, list) for step in (*range(28, 900, 28), 900)]
    with pytest.raises(ValueError, match=r"33 .* give: give a length from 0\.0132 to 0\.281, or"):
        snapshots.shares(sources, length)


def test_a_range_with_a_hole_is_two():
    (least, low), (high, most) = ranges([Source(100, (0.01, 0.2), list)])
    assert float(least) < 0.01 < float(low) < 0.05 < float(high) < 0.2 < float(most)
    with pytest.raises(ValueError, match=f"from {least} to {low} or from {high} to {most}, or"):
        snapshots.shares([Source(100, (0.01, 0.2), list)], 0.05)


def test_one_checkpoint_alone_gives_the_lengths_that_it_has():
    last = Source(100, LENGTHS, lambda: [{"w": np.ones(2)}, {"w": 2 * np.ones(2)}])
    np.testing.assert_allclose(snapshots.average([last], 0.1)["w"], 2, rtol=1e-6)
    with pytest.raises(ValueError, match="1 snapshots up to step 100 cannot give"):
        snapshots.average([last], 0.2)


def test_snapshots_of_later_steps_are_removed(folder):
    snapshots.remove_after(folder, 300)
    assert snapshots.stored(folder)[-1].step == 300
    (folder / snapshots.FOLDER / "000000320.safetensors.part").write_bytes(b"cut short")
    assert snapshots.stored(folder)[-1].step == 300


@pytest.mark.parametrize("step", [0, 1, 99, 999_999])
def test_the_weights_of_a_step_are_exact_in_float32(step):
    found = PowerAverage(LENGTHS).new_weights(jnp.asarray(step), 1)
    exact = [1 - beta(gamma_of(length), step + 1) for length in LENGTHS]
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((), "give one length or more"),
        ((0.1, 0.1), "each once"),
        ((0.5,), r"ema_lengths is 0\.5: .* at most 0\.2887"),
        (("0.1",), "ema_lengths has '0.1': give numbers"),
    ],
)
def test_impossible_lengths_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        PowerAverage(lengths)
