"""Conditioning on vectors, from the data's own units to the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import pipeline

from configs import points
from experiments.data.dataset import Dataset
from experiments.pipeline.conditions import Conditions, Vector

ROWS = np.array([[10.0, -1.0], [14.0, 1.0], [12.0, 3.0]])
MEAN, STD = ROWS.mean(axis=0), ROWS.std(axis=0)


def dataset(train=ROWS, test=ROWS[:2]):
    data = (np.zeros((len(rows), 2), np.float32) for rows in (train, test))
    return Dataset(
        *data, None, train_conditions={"vector": train}, test_conditions={"vector": test}
    )


def known(**fields):
    return Vector(2, tuple(MEAN), tuple(STD), **fields)


def test_vectors_are_standardised_by_the_training_data(tmp_path):
    conditions = Conditions((Vector(2),)).claim(dataset(), tmp_path)
    values = conditions.from_data(dataset(), "train")["vectors"]
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(values.std(axis=0), 1, rtol=1e-6)
    again = Conditions((Vector(2),)).of_run(tmp_path)
    given = again.given([[12.0, 1.0]])["vectors"]
    np.testing.assert_allclose(given, ([[12.0, 1.0]] - MEAN) / STD, rtol=1e-6)


def test_samples_have_the_test_datas_vectors_or_those_that_are_asked_for_in_turn():
    conditions, indices = Conditions((known(),)), np.arange(3, 7)
    expected = (ROWS[[1, 0, 1, 0]] - MEAN) / STD
    of_test = conditions.for_samples(indices, dataset)["vectors"]
    np.testing.assert_allclose(of_test, expected, rtol=1e-6)
    asked = conditions.asked(None, None, {"vector": ROWS}).for_samples(indices, dataset)
    np.testing.assert_allclose(asked["vectors"], (ROWS[[0, 1, 2, 0]] - MEAN) / STD, rtol=1e-6)
    one = conditions.asked(None, None, ROWS[0]).for_samples(indices, dataset)
    np.testing.assert_allclose(one["vectors"], np.tile((ROWS[0] - MEAN) / STD, (4, 1)), rtol=1e-6)


def test_vectors_are_dropped_at_random_and_the_null_is_not_the_mean():
    conditions = Conditions((known(),), dropout=0.3)
    values = {"vectors": jnp.zeros((1000, 2))}
    dropped = np.isnan(conditions.drop(jax.random.key(0), values, 0)["vectors"])
    assert (dropped[:, 0] == dropped[:, 1]).all()
    assert dropped.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 1000))
    assert np.isnan(conditions.unconditional(values)["vectors"]).all()


def test_a_constant_number_is_refused(tmp_path):
    constant = ROWS * [1, 0]
    with pytest.raises(ValueError, match="are constant in column 1: leave it out"):
        Conditions((Vector(2),)).claim(dataset(constant, constant), tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((3, 3)), r"shape \(3, 3\): they must be numbers \[N, 2\], .*vector_dim is 2"),
        (np.array([["a", "b"]]), "they must be numbers"),
        (np.where(ROWS == 14, np.nan, ROWS), "hold nan in row 1, column 0"),
        (np.zeros((0, 2)), "must be numbers"),
    ],
    ids=("width", "text", "nan", "empty"),
)
def test_vectors_that_do_not_fit_are_refused(rows, message):
    with pytest.raises(ValueError, match=f"the condition 'vector' .*{message}"):
        known().given(rows)
    with pytest.raises(ValueError, match=f"the vectors of the train data .*{message}"):
        known().from_data(dataset(rows), "train")


def test_data_without_vectors_are_refused():
    with pytest.raises(ValueError, match="vector_dim is 2, but the data have no vectors"):
        known().from_data(Dataset(ROWS, ROWS, None), "train")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"class": 1}, "condition has 'class', but this model has only 'vector'"),
        (ROWS, "condition has 3 rows of vectors for 4 samples: give one for each"),
    ],
    ids=("kind", "rows"),
)
def test_conditions_of_another_kind_or_number_are_refused(condition, message):
    with pytest.raises(ValueError, match=message):
        Conditions((known(),)).given(condition, 4)


@pytest.mark.thorough
def test_an_exact_model_recovers_the_conditional_law():
    """x given y is N(y, 0.25): moments, guidance and densities are those of the formula."""
    config = points.get_config()
    config.sampling.update(method="heun", n_steps=24)

    def score(x, t, vectors):
        y = vectors * STD + MEAN
        sde = model.sde
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        known = jnp.isfinite(y)
        mean, variance = jnp.where(known, y, 0.0), jnp.where(known, 0.25, 25.0)
        return -(x - alpha * mean) / (alpha**2 * variance + sigma**2)

    model = pipeline(config, score)
    conditions = Conditions((known(),), dropout=0.1)
    model = model.replace(conditions=conditions, batch_size=512, dataset=dataset)
    x = model.sample(2000, condition=[[1.0, -2.0], [3.0, 0.0]])
    np.testing.assert_allclose(x[::2].mean(axis=0), [1, -2], atol=0.06)
    np.testing.assert_allclose(x[1::2].mean(axis=0), [3, 0], atol=0.06)
    np.testing.assert_allclose(x[::2].std(axis=0), 0.5, rtol=0.1)
    np.testing.assert_allclose(
        model.sample(3, condition=[[1.0, -2.0], [3.0, 0.0]]), x[:3], atol=1e-4
    )
    unconditional = model.sample(1000, condition=[[1.0, -2.0]], guidance=0.0)
    np.testing.assert_allclose(unconditional.std(axis=0), 5, rtol=0.1)
    found = model.log_likelihood(x[:2], condition=[[1.0, -2.0], [3.0, 0.0]]).log_prob
    squares = ((x[:2] - [[1, -2], [3, 0]]) ** 2).sum(axis=1) / 0.25
    np.testing.assert_allclose(found, -0.5 * squares - np.log(2 * np.pi * 0.25), atol=0.02)
