import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from exact_models import not_a_number, pipeline

import samplers
from configs import points
from experiments.data.dataset import Dataset
from experiments.evaluation import bound, metrics
from experiments.pipeline import analytic
from experiments.pipeline.model import LikelihoodOptions
from experiments.runs import files

N = 600


@pytest.fixture(scope="module")
def dataset():
    train, test = (np.asarray(Gaussian().sample(jax.random.key(k), (N, 2))) for k in (0, 1))
    return Dataset(train, test, None)


@pytest.fixture(scope="module")
def model(dataset, tmp_path_factory):
    """An exact model of points that are N(0.3, 0.7^2), with a chain of 100 steps."""
    likelihood = LikelihoodOptions(batch_size=N)
    folder = tmp_path_factory.mktemp("run")
    options = {"likelihood": likelihood, "bound_steps": 100, "folder": folder, "step": 5}
    return pipeline(points.get_config(), dataset=dataset, **options)


def subject(model, dataset):
    """A model to be measured by figures that need neither losses nor features."""
    unused = None
    return metrics.Subject(model, dataset, dataset, "gaussian", unused, unused, 0)  # pyright: ignore


@pytest.mark.thorough
def test_the_bound_of_a_run_is_near_its_likelihood_and_is_not_computed_twice(
    model, dataset, monkeypatch
):
    ((name, figure),) = metrics.variational_bound(subject(model, dataset)).items()
    assert name == "bound bits/dim"
    exact = -np.asarray(Gaussian().log_prob(dataset.test)) / (2 * np.log(2))
    assert abs(figure.value - exact.mean()) < 4 * figure.error < 0.3
    assert sum(figure.about.values()) == pytest.approx(figure.value, abs=1e-3)
    terms = np.loadtxt(model.folder / "bound_5_seed42.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(terms[:, 0], model.chain())
    rest = figure.about["diffusion"] + figure.about["reconstruction"]
    assert terms[:, 1].sum() == pytest.approx(rest, abs=1e-3)

    monkeypatch.setattr(files, "write_arrays", lambda *_, **__: pytest.fail("computed again"))
    assert metrics.variational_bound(subject(model, dataset)) == {name: figure}


@pytest.mark.thorough
def test_analytic_dpm_s_variance_is_that_of_gaussian_data(model):
    made = analytic.variance(model)
    exact = 0.49 / (0.49 + np.exp(-np.asarray(made.log_snrs)))
    np.testing.assert_allclose(made.unknown, exact, atol=0.07)
    sampler = dataclasses.replace(samplers.create("ddpm", variance="analytic"), n_steps=20)
    assert model.replace(sampler=sampler).sample(2000).std() == pytest.approx(0.7, rel=0.04)


@pytest.mark.thorough
def test_impossible_chains_are_refused_by_their_field(model):
    with pytest.raises(ValueError, match="1001 steps, but the model was trained at 1000"):
        model.replace(n_levels=1000, bound_steps=1001).chain()
    for steps in (0, 1):
        with pytest.raises(
            ValueError, match=rf"config\.eval\.bound_steps is {steps}: it must be at least 2"
        ):
            model.replace(bound_steps=steps).chain()


def test_there_is_no_bound_of_latents(model, dataset):
    latent = model.replace(decoder=object())
    with pytest.raises(ValueError, match="enable_bound needs a model of images, and with"):
        metrics.variational_bound(subject(latent, dataset))


@pytest.mark.thorough
def test_terms_that_are_not_finite_are_an_error(model, dataset):
    broken = model.replace(model=pipeline(points.get_config(), not_a_number).model)
    variance = analytic.variance(model)
    with pytest.raises(FloatingPointError, match="600 of 600 bounds are not finite"):
        bound.bits_per_dim(broken, (jnp.asarray(dataset.test), {}), variance)
