import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import MESH, Toy, first_state, options

from experiments.data import batches
from experiments.data.scaling import Scaling
from experiments.runs import devices
from experiments.training import step as steps
from experiments.training.averages.power import PowerAverage
from experiments.training.averages.power_function import beta, gamma_of
from experiments.training.objective import RAW_IMAGES
from experiments.training.optimizer import Adam
from experiments.training.options import Average

POINTS = np.random.RandomState(0).randn(64, 2).astype(np.float32) + 1


def train_step(objective, **changes):
    return jax.jit(steps.make_train_step(objective, options(**changes), MESH))


def repeat(objective, n, batch, **changes):
    """The states after 0, ..., n steps on one batch, and the metrics of the last."""
    n_averages = options(**changes).average.count
    states, metrics = [first_state(objective, n_averages=n_averages)], {}
    step = train_step(objective, **changes)
    for _ in range(n):
        state, metrics = step(states[-1], batch)
        states.append(state)
    return states, metrics


@pytest.fixture(scope="module")
def toy():
    """A compiled step of a toy, and the state before it."""
    objective = Toy(dropout=0.1)
    return train_step(objective), first_state(objective)


@pytest.mark.thorough
def test_the_average_is_that_of_its_recurrence(toy):
    step, state = toy
    average, rate = np.asarray(state.params["mean"]), 0.9999
    stream = batches.batches(POINTS, 0, (1, 8), 0, devices.batch_sharding(MESH, axis=1))
    for k, batch in zip(range(20), stream, strict=False):
        state, _ = step(state, batch)
        kept = min(rate, (1 + k) / (10 + k))
        average = kept * average + (1 - kept) * np.asarray(state.params["mean"])
    np.testing.assert_allclose(state.ema_params["mean"], average, rtol=1e-5)


def test_power_function_averages_are_those_of_their_recurrence():
    """The first step forgets the initial weights; the lengths decide on the rest (Eq. 127)."""
    lengths = 0.05, 0.1, 0.25
    states, _ = repeat(Toy(), 6, POINTS[None, :8], average=PowerAverage(lengths))
    for k, length in enumerate(lengths):
        average = np.zeros(2)
        for t, state in enumerate(states[1:], 1):
            kept = beta(gamma_of(length), t)
            average = kept * average + (1 - kept) * np.asarray(state.params["mean"])
            found = (state.ema_params, *state.averages)[k]["mean"]
            np.testing.assert_allclose(found, average, rtol=1e-5)


@pytest.mark.parametrize("rampup", [0.0, 0.5])
def test_the_average_has_its_half_life(rampup):
    """In images, of 8 a step; with rampup 0.5, at most half of those seen: 0, 4, 8, 12."""
    states, _ = repeat(Toy(), 4, POINTS[None, :8], average=Average(0.9999, 10.0, rampup))
    average = np.asarray(states[0].params["mean"])
    for state, ramped in zip(states[1:], (0, 4, 8, 12), strict=True):
        kept = 0.5 ** (8 / max(min(10, ramped) if rampup else 10, 1e-8))
        average = kept * average + (1 - kept) * np.asarray(state.params["mean"])
        np.testing.assert_allclose(state.ema_params["mean"], average, rtol=1e-5)


def test_steps_differ_in_their_randomness(toy):
    """The same batch at the same weights: another loss at another step, the same at the same."""
    step, state = toy
    losses = [
        float(step(state._replace(step=jnp.array(k)), POINTS[None, :8])[1]["loss"])
        for k in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_dropout_alone_differs_between_steps_and_between_microbatches():
    """Here the batch is the same row 8 times, and the loss of the step that of its dropout."""

    class Noise(Toy):
        def loss(self, params, keys, carry, first_index, x, conditions):
            return jax.random.uniform(keys["dropout"]) + 0 * params["mean"][0], {}

    def draw(n, k):
        state = first_state(Noise())._replace(step=jnp.array(k))
        batch = np.ones((n, 8 // n, 2), np.float32)
        return float(train_step(Noise(), n_microbatches=n)(state, batch)[1]["loss"])

    one, other = draw(1, 0), draw(1, 1)
    assert one != other
    assert draw(2, 0) != pytest.approx(one, rel=1e-4)


@pytest.mark.thorough
def test_microbatches_change_nothing_but_the_memory():
    """Each sample has its own noise in the whole batch, by its index."""
    (_, whole), metrics = repeat(Toy(), 1, POINTS[None, :8])
    (_, parts), same = repeat(Toy(), 1, POINTS[:8].reshape(2, 4, 2), n_microbatches=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5), metrics, same)
    moments = [state.opt_state[1][0].mu for state in (whole, parts)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=2e-5), *moments)


def test_new_weights_that_are_not_finite_are_not_taken():
    """0 / 0 in Adam, where a gradient is zero and eps is too."""
    (before, after), metrics = repeat(Toy(Adam(eps=0.0, warmup=0)), 1, POINTS[None, :8])
    assert np.isfinite(metrics["grad_norm"])
    assert not np.isfinite(metrics["param_norm"])
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)
    assert (int(before.step), int(after.step)) == (0, 1)


def test_a_bad_batch_changes_nothing_but_the_step():
    states, metrics = repeat(Toy(), 1, np.full((1, 8, 2), np.nan, np.float32))
    assert not np.isfinite(metrics["loss"])
    before, after = (state._replace(step=0) for state in states)
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.thorough
def test_a_frozen_parameter_is_the_same_to_the_last_bit_and_has_no_part_in_the_norm():
    """In averages too, and with weight decay; another one is trained as ever."""

    class Two(Toy):
        def init(self, key):
            return super().init(key) | {"other": jnp.full((), 0.1)}

        def loss(self, params, keys, *arguments):
            loss, aux = super().loss(params, keys, *arguments)
            return loss + jnp.square(params["other"]), aux

    plain = Adam(lr=0.1, warmup=0, weight_decay=0.1, grad_clip=0.0)
    frozen = dataclasses.replace(plain, freeze=("mean", "unused"))
    made = [repeat(Two(adam), 5, POINTS[None, :8], optimizer=adam) for adam in (frozen, plain)]
    (before, *_, after), metrics = made[0]
    for name in ("mean", "unused"):
        np.testing.assert_array_equal(after.params[name], before.params[name])
        np.testing.assert_array_equal(after.ema_params[name], before.params[name])
    assert after.params["other"] == made[1][0][-1].params["other"] != before.params["other"]
    slope = 2 * made[0][0][-2].params["other"]
    np.testing.assert_allclose(metrics["grad_norm"], abs(slope), rtol=1e-6)
    assert made[1][1]["grad_norm"] > 2 * metrics["grad_norm"]


class Root(Toy):
    """A toy with a weight at 0 whose loss has no finite slope there."""

    def init(self, key):
        return super().init(key) | {"root": jnp.zeros(())}

    def loss(self, params, keys, *arguments):
        loss, aux = super().loss(params, keys, *arguments)
        return loss + jnp.sqrt(params["root"]), aux


@pytest.mark.thorough
def test_gradients_that_are_not_finite_are_skipped_or_replaced():
    objective = Root(Adam(lr=0.1, warmup=0))
    (before, after), metrics = repeat(objective, 1, POINTS[None, :8])
    assert not np.isfinite(metrics["grad_norm"])
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    (_, after), metrics = repeat(objective, 1, POINTS[None, :8], nan_to_num=True)
    assert float(metrics["grad_norm"]) == pytest.approx(steps.HUGE, rel=1e-3)
    assert abs(float(after.params["root"])) == pytest.approx(0.1, rel=1e-3)


@dataclasses.dataclass(frozen=True, eq=False)
class Watched(Toy):
    """A toy of images whose carry is what the loss saw in the last step."""

    shape = (8, 8, 1)
    scaling = Scaling(17)

    def init_carry(self):
        return jnp.zeros((400, *self.shape))

    def update_carry(self, carry, aux):
        return aux

    def loss(self, params, keys, carry, first_index, x, conditions):
        return jnp.sum(jnp.square(params["mean"])), x


@pytest.mark.thorough
def test_flips_mirror_the_images_left_to_right():
    """Images bright on the left: half of what the network sees is bright on the right."""
    batch = np.zeros((1, 400, 8, 8, 1), np.uint8)
    batch[:, :, :, :4] = 16
    for flip, expected in ((False, 0.0), (True, 0.5)):
        states, _ = repeat(Watched(), 1, batch, batch_size=400, random_flip=flip)
        seen = states[-1].opt_state[1]
        brighter = seen[:, :, 4:].mean((1, 2, 3)) > seen[:, :, :4].mean((1, 2, 3))
        most = 4 * np.sqrt(0.25 / 400) if flip else 0
        assert np.mean(brighter) == pytest.approx(expected, abs=most)


@dataclasses.dataclass(frozen=True, eq=False)
class Paired(Watched):
    """A toy whose carry is the difference between the grey levels and the condition images."""

    def loss(self, params, keys, carry, first_index, x, conditions):
        grey = jnp.floor((x + 1) / 2 * 17)
        return jnp.sum(jnp.square(params["mean"])), grey - conditions[RAW_IMAGES]


def test_flips_mirror_condition_images_with_the_samples():
    batch = np.random.RandomState(0).randint(0, 17, (1, 400, 8, 8, 1)).astype(np.uint8)
    step = train_step(Paired(), batch_size=400, random_flip=True)
    state, _ = step(first_state(Paired()), batch, {RAW_IMAGES: batch})
    np.testing.assert_array_equal(state.opt_state[1], 0)


def test_points_are_not_flipped(toy):
    step, state = toy
    flipped = train_step(Toy(dropout=0.1), random_flip=True)
    losses = [float(each(state, POINTS[None, :8])[1]["loss"]) for each in (step, flipped)]
    assert losses[0] == losses[1]


PERIODS = dict.fromkeys(("log_freq", "eval_freq", "snapshot_freq"), 3)


@pytest.mark.parametrize("resident_bytes", [0, 2**20])
def test_programs_end_at_multiples_of_their_steps(resident_bytes):
    """A run of 8 steps, 3 in a program, that continues from step 2; each sample comes once."""
    training = options(
        steps_per_jit=3,
        snapshot_freq_for_preemption=3,
        resident_bytes=resident_bytes,
        **PERIODS,
    )
    whole, rest = (list(steps.make_batches(POINTS, training, MESH, start)) for start in (0, 2))
    assert [len(batch) for _, *batch in whole] == [3, 3, 2]
    assert [len(batch) for _, *batch in rest] == [1, 3, 2]
    rows = [
        np.asarray(batches.fetch(resident, batch)).reshape(8, 2)
        for (resident, _), *several in whole
        for batch in several
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows), 0), np.sort(POINTS, 0))
    np.testing.assert_array_equal(rest[0][1], whole[0][3])


def test_fewer_samples_than_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"there are 64 training samples: .*batch_size = 65 must"):
        next(steps.make_batches(POINTS, options(batch_size=65), MESH, 0))
