import csv
import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from closed_forms import Gaussian
from exact_models import grey_images, pipeline
from scipy import stats

import samplers
from configs import digits, points
from experiments.build.components import diffusion, objectives, optimization
from experiments.commands import evaluate
from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.data.sources.points import MIXTURE
from experiments.evaluation import features, metrics, quality, reference
from experiments.evaluation.figure import Figure
from experiments.evaluation.quality import Moments
from experiments.pipeline.model import LikelihoodOptions
from experiments.tasks.score_model import ScoreModel

GAUSSIAN, N = Gaussian(mean=0.1, std=0.3), 160


@pytest.fixture(scope="module")
def dataset():
    """Images of dequantised data that is N(0.1, 0.3^2) in [-1, 1], to within a level."""
    train, test = (
        grey_images(GAUSSIAN.sample(jax.random.key(seed), (N, 8, 8, 1))) for seed in (0, 1)
    )
    return Dataset(train, test, 256)


def subject(folder, dataset, **options):
    """An exact model to be measured, with the plain loss of score matching."""
    config = digits.get_config("vp_score_sde")
    config.training.likelihood_weighting = config.training.importance_sampling = False
    sde = diffusion.sde(config)
    model = pipeline(
        config,
        GAUSSIAN.score_fn(sde),
        dataset,
        likelihood=LikelihoodOptions(1e-5, 1e-5, **options),
        scaling=Scaling(256),
        sampler=samplers.create("heun", n_steps=30),
        batch_size=40,
        folder=folder,
        step=5,
    )
    loss = partial(objectives.held_out_loss, config, sde)()
    task = ScoreModel(model, lambda _: loss, loss, optimization.adam(config))
    fn = features.random_conv()
    return metrics.Subject(model, dataset, dataset, "gaussian", jax.jit(task.metrics), fn, 100)


@pytest.mark.thorough
def test_bits_per_dim_are_the_entropy_of_the_grey_levels(tmp_path, dataset):
    """To within 2e-3, in two passes."""
    probabilities = np.diff(stats.norm.cdf(np.linspace(-1, 1, 257), 0.1, 0.3))
    exact = -np.log2(probabilities[dataset.test]).mean()
    measured = subject(tmp_path / "run", dataset, n_repeats=2)
    figure = metrics.bits_per_dim(measured)["test bits/dim"]
    assert figure.value == pytest.approx(exact, abs=2e-3)
    rows = list(csv.DictReader((tmp_path / "run" / "likelihood_5_seed42.csv").open()))
    each = [float(row["bits_per_dim"]) for row in rows]
    assert np.mean(each) == pytest.approx(figure.value)
    arrays = np.load(tmp_path / "run" / "likelihood_5_seed42.npz")
    np.testing.assert_allclose(arrays["bits_per_dim"], each)
    np.testing.assert_allclose(arrays["log_prob"], -np.log(2) * 64 * arrays["bits_per_dim"])


@pytest.mark.thorough
def test_the_test_loss_is_that_of_the_closed_form(tmp_path, dataset):
    measured = subject(tmp_path / "run", dataset, n_repeats=4)
    figure = metrics.test_loss(measured)["test loss"]
    sde, t = measured.pipeline.sde, np.linspace(1e-5, 1, 4001)
    _, std = GAUSSIAN.marginal(sde, t)
    loss = 0.5 * 64 * np.mean(1 - np.asarray(sde.sigma(t) / std) ** 2)
    assert abs(figure.value - loss) < 4 * figure.error < 4


@pytest.mark.thorough
def test_samples_of_the_data_s_distribution_are_no_farther_than_other_data(tmp_path, dataset):
    measured = subject(tmp_path / "run", dataset)
    figures = metrics.sample_quality(measured)
    train, test = (measured.features(images)[0] for images in (dataset.train, dataset.test[:100]))
    moments = (Moments.of(np.asarray(rows)) for rows in (train, test))
    distance = figures["frechet_distance(random_conv_v1)"]
    assert distance.value < 1.5 * quality.frechet_distance(*moments)
    assert figures["precision(random_conv_v1)"].value > 0.5
    name = f"random_conv_v1-{measured.features.version}"
    about = {"samples": 100, "data": 160, "features": name, "seed": 42}
    assert distance.about == about
    assert str(distance).endswith(f"(samples 100, data 160, features {name}, seed 42)")
    assert not [name for name in figures if "fid" in name]
    kernel = figures["kernel_distance(random_conv_v1)"]
    assert abs(kernel.value) < 4 * kernel.error
    made = list((tmp_path / "run" / "evaluation" / "5").glob("samples-*/images_*.npz"))
    assert len(made) == 3  # batches of 40


@pytest.mark.thorough
def test_published_statistics_take_the_place_of_the_data(tmp_path, dataset):
    """Those of the samples themselves are at the distance 0; a shift adds its square."""
    measured = subject(tmp_path / "run", dataset)
    inception = measured.features.replace(name=features.INCEPTION)
    measured = dataclasses.replace(measured, features=inception)
    metrics.sample_quality(measured)
    (folder,) = (tmp_path / "run" / "evaluation" / "5").glob("samples-*")
    rows = [np.load(path)["features"] for path in sorted(folder.glob(f"{inception.name}*"))]
    moments = Moments.of(np.concatenate(rows)[:100])
    for shift in (0.0, 0.5):
        path = tmp_path / "cifar10-32x32.npz"
        mean = moments.mean + shift * np.eye(len(moments.mean))[0]
        np.savez(path, mu=mean, sigma=moments.covariance)
        without_data = dataclasses.replace(measured, dataset=None, images=None, statistics=path)
        figures = metrics.sample_quality(without_data)
        assert list(figures) == ["fid"]
        assert figures["fid"].value == pytest.approx(shift**2, abs=1e-6)
        assert figures["fid"].about["data"] == "cifar10-32x32.npz"


@pytest.mark.thorough
def test_points_are_compared_by_their_coordinates(tmp_path, monkeypatch):
    """A model of N(0.3, 0.7^2): the Frechet distance from the data is a closed form."""
    monkeypatch.setattr(reference, "PAIRED", 500)
    data = np.asarray(MIXTURE.sample(jax.random.key(0), 20_000))
    points_data = Dataset(data, data[:10], None)
    sampler = samplers.create("heun", n_steps=30)
    options = {"sampler": sampler, "folder": tmp_path / "run"}
    model = pipeline(points.get_config("mixture"), dataset=points_data, **options)
    fn, no_losses = reference.feature_function(model.shape), None
    measured = metrics.Subject(model, points_data, points_data, "mixture", no_losses, fn, 4000)  # pyright: ignore
    distance = metrics.sample_quality(measured)["frechet_distance(coordinates)"]
    data_std = np.sqrt(2 + MIXTURE.std**2)  # of eight centres on a circle of radius 2
    expected = 2 * 0.3**2 + 2 * (data_std - 0.7) ** 2
    assert distance.value == pytest.approx(expected, rel=0.05)


@pytest.mark.thorough
def test_several_seeds_give_all_values_their_mean_error_and_minimum(tmp_path, dataset, monkeypatch):
    """Those of seeds 42, 43, 44, as each would be measured alone."""
    values = {42: 3.0, 43: 1.0, 44: 2.0}

    def of_set(subject):
        seed = subject.pipeline.seed
        assert subject.pipeline.folder == tmp_path
        return {"fid": Figure(values[seed], None, {"samples": 100, "seed": seed})}

    monkeypatch.setattr(metrics, "quality_of_set", of_set)
    measured = dataclasses.replace(subject(tmp_path, dataset), n_seeds=3)
    figure = metrics.sample_quality(measured)["fid"]
    assert (figure.value, figure.error) == pytest.approx((2.0, 1 / np.sqrt(3)))
    assert figure.about == {
        **{"samples": 100, "minimum": "1", "seeds": "42 to 44", "each": "3 1 2"}
    }
    alone = dataclasses.replace(measured, n_seeds=1)
    assert metrics.sample_quality(alone)["fid"] == Figure(3.0, None, {"samples": 100, "seed": 42})


def test_other_weights_are_evaluated_anew(tmp_path, dataset):
    """Of the same run and step; and the same weights are not."""
    measured = subject(tmp_path / "run", dataset)
    other = measured.pipeline.replace(params={"w": np.ones(1)})
    again = metrics.Subject(other, *list(vars(measured).values())[1:])
    folders = [each.parts("loss")._folder for each in (measured, measured, again)]
    assert folders[0] == folders[1] != folders[2]


def test_figures_print_with_their_errors_and_details():
    assert str(Figure(1.96812, 0.01432, {"nfe": 186})) == "1.968 +- 0.014 (nfe 186)"
    assert str(Figure(0.00012345, 0.00001)) == "0.00012 +- 1e-05"
    assert str(Figure(3.0)) == "3.000"


def test_a_new_metric_is_a_function_and_a_line(tmp_path, dataset, monkeypatch):
    """config.eval.metrics names it."""

    def brightness(subject):
        return {"brightness": Figure(float(subject.dataset.test.mean()))}

    monkeypatch.setitem(metrics.METRICS, "toy", brightness)
    config = digits.get_config()
    config.eval.enable_bpd = config.eval.enable_loss = config.eval.enable_sampling = False
    config.eval.metrics = ("toy",)
    assert evaluate.chosen(config) == ["toy"]
    figures = metrics.METRICS["toy"](subject(tmp_path, dataset))
    assert figures["brightness"].value == pytest.approx(dataset.test.mean())
    config.eval.metrics = ("tpy",)
    with pytest.raises(ValueError, match="did you mean 'toy'"):
        evaluate.chosen(config)


@pytest.mark.thorough
def test_classes_have_figures_of_their_own(tmp_path, dataset):
    """Of two halves of one Gaussian by a model without classes: recall alone, near that of all."""
    halves = np.arange(N) % 2
    labelled = dataclasses.replace(dataset, train_labels=halves, test_labels=halves)
    measured = dataclasses.replace(
        subject(tmp_path / "run", dataset), dataset=labelled, images=labelled
    )
    figures = metrics.class_quality(measured)
    assert figures.keys() == {f"class {k}, recall(random_conv_v1)" for k in (0, 1)}
    assert all(figure.value > 0.5 for figure in figures.values())
    bits = metrics.class_likelihood(measured)
    whole = metrics.bits_per_dim(measured)["test bits/dim"].value
    assert np.mean([figure.value for figure in bits.values()]) == pytest.approx(whole)
    bare = dataclasses.replace(measured, dataset=dataset, images=dataset)
    for name in ("class_quality", "class_likelihood"):
        with pytest.raises(ValueError, match=f"{name}', but 'gaussian' has no classes"):
            metrics.METRICS[name](bare)


@pytest.mark.thorough
def test_the_alignment_takes_a_file_of_embeddings(tmp_path, dataset):
    """Embeddings of samples that are those of their captions: the score is 100."""
    rows = np.eye(4)[np.arange(100) % 4]
    np.savez(tmp_path / "x.npz", captions=np.eye(4), images=rows)
    measured = subject(tmp_path / "run", dataset)
    measured = dataclasses.replace(measured, embeddings=tmp_path / "x.npz")
    assert metrics.caption_alignment(measured)["alignment"].value == pytest.approx(100)
    config = digits.get_config()
    config.eval.metrics = ("alignment",)
    with pytest.raises(ValueError, match=r"eval.embeddings is ''.* needs it"):
        evaluate.chosen(config)
    config.eval.update(metrics=(), embeddings="x.npz")
    with pytest.raises(ValueError, match=r"eval.embeddings is 'x.npz'"):
        evaluate.chosen(config)
