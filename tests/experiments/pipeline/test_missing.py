"""Models of data with missing values, by the exact score of a Gaussian's observed part."""

import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import pipeline

import samplers
from configs import points
from experiments.build.components import diffusion, specs
from experiments.data.dataset import Dataset
from experiments.evaluation import metrics
from experiments.evaluation.reference import feature_function
from experiments.pipeline import show
from experiments.pipeline.edit import Edit
from experiments.pipeline.model import LikelihoodOptions
from models import NoiseModel

MEAN, STD = np.array([100.0, -5.0, 0.0]), np.array([10.0, 2.0, 0.5])
CORRELATION = np.array([[1.0, 0.8, -0.3], [0.8, 1.0, 0.2], [-0.3, 0.2, 1.0]])
COVARIANCE = CORRELATION * np.outer(STD, STD)
TABLE = np.random.RandomState(0).multivariate_normal(MEAN, COVARIANCE, 40)
GAPS = TABLE.copy()
GAPS[::2, 0] = GAPS[1::4, 1] = GAPS[::5, 2] = np.nan
GAPS[0] = [np.nan, -4.0, np.nan]


def score(sde):
    """The observed part's score, as a network of twice the channels gives it."""

    def observed(x, t):
        x, mask = jnp.split(x, 2, axis=-1)
        alpha, sigma = sde.alpha(t)[:, None, None], sde.sigma(t)[:, None, None]
        seen = mask[:, :, None] * CORRELATION * mask[:, None, :]
        solved = jnp.linalg.solve(alpha**2 * seen + sigma**2 * jnp.eye(3), x[..., None])
        return jnp.concatenate([-solved[..., 0], mask], axis=-1)

    return observed


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = points.get_config("moons")
    config.data.update(dataset="table", path="x.csv", shape=(3,), missing="mask")
    sde = diffusion.sde(config)
    scaling = specs.scaling(config).with_moments({"mean": MEAN.tolist(), "std": STD.tolist()})
    data = GAPS.astype(np.float32)
    made = pipeline(
        config,
        score(sde),
        Dataset(data[:30], data[30:], None, columns=("a", "b", "c")),
        scaling=scaling,
        folder=tmp_path_factory.mktemp("run"),
        sampler=samplers.create("heun", n_steps=25),
        likelihood=LikelihoodOptions(1e-5, 1e-5, "exact"),
    )
    return made.replace(model=NoiseModel(made.network, made.model.preconditioning, True))


def log_density(x):
    on = ~np.isnan(x)
    away, covariance = (x - MEAN)[on], COVARIANCE[np.ix_(on, on)]
    log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
    return -0.5 * (away @ np.linalg.solve(covariance, away) + log_det)


@pytest.mark.thorough
def test_likelihoods_are_of_the_observed_part_in_its_own_units(model):
    bits = model.bits_per_dim(GAPS)
    exact = np.array([log_density(x) for x in GAPS])
    np.testing.assert_allclose(bits.nats, exact, atol=0.02)  # the flow's ends are not exact
    counts = (~np.isnan(GAPS)).sum(1)
    np.testing.assert_allclose(bits.each, -bits.nats / counts / np.log(2), rtol=1e-5)
    z = (GAPS - MEAN) / STD
    nats = np.asarray(model.log_likelihood(z).log_prob)
    volume = np.where(np.isnan(GAPS), 0, np.log(STD)).sum(1)
    np.testing.assert_allclose(nats - volume, bits.nats, atol=1e-3)
    assert " nats" in metrics.likelihood_figures(model, bits)["test log-likelihood"]


@pytest.mark.thorough
def test_imputation_draws_from_the_conditional(model):
    """Mean and covariance of the missing values; the observed ones come back exactly."""
    rows = np.array([[np.nan, -2.0, np.nan], [115.0, np.nan, 0.2], [90.0, -6.0, np.nan]])
    n = 600
    made = model.impute(rows, n, n_iterations=3)
    assert made.shape == (3, n, 3)
    for row, found in zip(rows.astype(np.float32), made, strict=True):
        on = ~np.isnan(row)
        assert (found[:, on] == row[on]).all()
        gain = COVARIANCE[np.ix_(~on, on)] @ np.linalg.inv(COVARIANCE[np.ix_(on, on)])
        mean = MEAN[~on] + gain @ (row - MEAN)[on]
        covariance = COVARIANCE[np.ix_(~on, ~on)] - gain @ COVARIANCE[np.ix_(on, ~on)]
        std = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose((found[:, ~on].mean(0) - mean) / std, 0, atol=4 / n**0.5)
        scaled = np.atleast_2d(np.cov(found[:, ~on].T)) / np.outer(std, std)
        np.testing.assert_allclose(scaled, covariance / np.outer(std, std), atol=5 / n**0.5)


@pytest.mark.thorough
def test_imputed_rows_are_saved_with_a_picture(model):
    rows, options = np.array([0, 1]), Edit("impute", 2)
    given = GAPS[:2].astype(np.float32)
    imputed = np.nan_to_num(np.repeat(given[:, None], 2, axis=1), nan=1.0)
    arrays, picture = show.save_imputed(model, rows, given, imputed, options)
    assert picture.exists()
    with np.load(arrays) as saved:
        np.testing.assert_array_equal(saved["given"], given)
        np.testing.assert_array_equal(saved["imputed"], imputed)
        np.testing.assert_array_equal(saved["rows"], rows)


@pytest.mark.thorough
def test_samples_are_complete_and_shown_beside_incomplete_data(model):
    x = model.sample(64)
    assert np.isfinite(x).all()
    assert show.save_samples(model, 64, (x, 1)).exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.impute(np.full((2, 3), np.nan)), "2 samples have no observed value"),
        (lambda model: model.impute(np.array([[np.inf, 1, 2]])), "1 numbers are not finite"),
        (lambda model: model.edit(TABLE, "variations"), "task = 'variations' needs complete data"),
        (lambda model: model.bits_per_dim(np.full((2, 3), np.nan)), "2 samples have no observed"),
    ],
    ids=["nothing", "infinite", "complete", "bits"],
)
def test_what_cannot_be_is_refused(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


@pytest.mark.thorough
def test_a_model_of_complete_data_imputes_too_and_refuses_nan_elsewhere():
    model = pipeline(points.get_config("moons"), sampler=samplers.create("ddim", n_steps=8))
    x = np.array([[0.5, np.nan], [np.nan, 0.3]], np.float32)
    made = model.impute(x, 3)
    assert (made[0, :, 0] == 0.5).all()
    assert np.isfinite(made).all()
    for call in (model.log_likelihood, model.bits_per_dim):
        with pytest.raises(ValueError, match=r"set config\.data\.missing='mask'"):
            call(x)


@pytest.mark.thorough
def test_sample_quality_compares_with_complete_data(model, tmp_path):
    dataset = model.dataset()
    features = feature_function((3,), scaling=model.scaling)
    made = model.replace(folder=tmp_path / "run", batch_size=20)
    subject = metrics.Subject(made, dataset, dataset, "gaps", None, features, 20)
    figures = metrics.sample_quality(subject)
    whole = (~np.isnan(dataset.train)).all(axis=1).sum()
    distance = figures["frechet_distance(coordinates)"]
    assert np.isfinite(distance.value)
    assert distance.about["data"] == whole
