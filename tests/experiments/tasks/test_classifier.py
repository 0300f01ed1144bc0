from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES, Gaussian
from discriminators import save_run
from exact_models import guided

import models
from configs import digits
from experiments.build import conditions, guidance, tasks
from experiments.build.components import diffusion
from experiments.data.dataset import Dataset
from experiments.pipeline import draw
from experiments.tasks.classifier import cross_entropy
from sde_lib.batch import expand

SDE, MEANS, STD = SDES["vp"], (-0.5, 0.5), 0.2  # of all pixels of the images of two classes


def log_densities(x, t):
    """log p_t(x | class), [B, 2], up to a term that both share."""
    variance = (SDE.alpha(t) * STD) ** 2 + SDE.sigma(t) ** 2
    squares = [jnp.sum((x - expand(SDE.alpha(t), x) * mean) ** 2, axis=(1, 2, 3)) for mean in MEANS]
    return -0.5 * jnp.stack(squares, axis=1) / variance[:, None]


class Exact(nn.Module):
    """The score network of the mixture; its parameter is there to be saved."""

    @nn.compact
    def __call__(self, x, labels, train=False):
        self.param("unused", nn.initializers.zeros, (1,))
        t = labels / 999
        return jax.grad(lambda x: jnp.sum(nn.logsumexp(log_densities(x, t), axis=1)))(x)


class Bayes(nn.Module):
    """The classifier of least error."""

    inputs: ClassVar = "unscaled"

    @nn.compact
    def __call__(self, x, labels, train=False):
        self.param("unused", nn.initializers.zeros, (1,))
        return log_densities(x, labels / 999)


@pytest.fixture(autouse=True, scope="module")
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "exact", Exact)
        patch.setitem(models.MODELS, "bayes", Bayes)
        patch.setitem(models.registry.KINDS, "bayes", "classifier")
        yield


def config(name):
    result = digits.get_config("subvp")
    result.training.update(sde="vpsde", importance_sampling=False)
    result.model.update(name=name, parametrization="score")
    result.data.image_size, result.data.num_classes = 2, 2
    result.eval.batch_size = 512
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a trained classifier."""
    folder = tmp_path_factory.mktemp("classifier")
    save_run(config("bayes"), folder)
    return folder


def guided_to(folder, labels):
    """A model with classifier guidance to these classes in turn; () for all."""
    ours = config("exact")
    ours.sampling.n_steps, ours.sampling.batch_size = 200, 500
    ours.sampling.labels = labels
    ours.guidance.classifier.run = str(folder)
    return guided(ours).replace(params={"unused": jnp.zeros(1)})


@pytest.mark.thorough
@pytest.mark.parametrize("labels", [(), (1,)])
def test_the_guided_score_is_that_of_the_class(folder, labels):
    """Bayes' rule, exactly."""
    model = guided_to(folder, labels)
    (guide,), x = model.guides, jax.random.normal(jax.random.key(0), (4, 2, 2, 1))
    t = jnp.array([0.1, 0.3, 0.6, 0.9])
    score_fn = guide.apply(model.score_fn(), guide.params, model.sde, jnp.arange(4))
    each = [Gaussian(mean, STD).score_fn(SDE)(x, t) for mean in MEANS]
    expected = [each[1 if labels else k % 2][k] for k in range(4)]
    np.testing.assert_allclose(score_fn(x, t), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
def test_guided_samples_are_those_of_the_class(folder):
    """The moments of one component of the mixture, by the class of each sample."""
    x, _ = draw.draw_all(guided_to(folder, ()), 500)
    for label, mean in enumerate(MEANS):
        assert x[label::2].mean() == pytest.approx(mean, abs=0.02)
        assert x[label::2].std() == pytest.approx(STD, rel=0.08)


@pytest.mark.thorough
def test_the_report_is_the_accuracy_of_the_least_error(tmp_path):
    """Of two classes at -+ m of common deviation s the error is Phi(-|m| / s), averaged over t."""
    from scipy import stats

    task, labels = tasks.task(config("bayes")), np.arange(4000) % 2
    noise = np.random.RandomState(0).randn(4000, 2, 2, 1)
    x = np.asarray(MEANS)[labels][:, None, None, None] + STD * noise
    grey = np.clip(np.floor((x + 1) * 17 / 2), 0, 16).astype(np.uint8)
    dataset = Dataset(grey, grey, 17, labels, labels)
    (line,), figures, _ = task.accuracy({"unused": jnp.zeros(1)}, 1, dataset, tmp_path)
    t = np.linspace(1e-5, 1, 2001)
    alpha, sigma = np.asarray(SDE.alpha(t)), np.asarray(SDE.sigma(t))
    error = stats.norm.cdf(-2 * alpha * 0.5 / np.sqrt((alpha * STD) ** 2 + sigma**2)).mean()
    assert float(line.split()[2]) == pytest.approx(1 - error, abs=0.03)
    assert "(the commonest class: 0.500)" in line
    assert "to t = 0.2" in line
    assert figures == {"test set": line}


@pytest.mark.thorough
def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_classes():
    x0, labels = jnp.zeros((6, 2, 2, 1)), jnp.arange(6) % 3
    logits = lambda x, t: jnp.zeros((len(t), 3))  # noqa: E731
    losses, metrics = cross_entropy(jax.random.key(0), SDE, logits, x0, labels)
    np.testing.assert_allclose(losses, np.log(3), rtol=1e-6)
    np.testing.assert_array_equal(metrics["correct"], labels == 0)


@pytest.mark.thorough
def test_the_training_loss_is_the_cross_entropy_of_the_batch():
    """Samples of the second half of a batch have the same noise as in the whole."""
    task = tasks.task(config("bayes"))
    params, keys = (
        task.init(jax.random.key(0)),
        dict.fromkeys(("loss", "dropout"), jax.random.key(1)),
    )
    x, labels = jax.random.normal(jax.random.key(2), (6, 2, 2, 1)), jnp.arange(6) % 2
    whole, *halves = (
        task.loss(params, keys, None, rows.start, x[rows], {"class_labels": labels[rows]})[0]
        for rows in (slice(0, 6), slice(0, 3), slice(3, 6))
    )
    assert float(whole) == pytest.approx(float(np.mean(halves)), rel=1e-5)


def test_data_without_labels_are_refused(tmp_path):
    images = np.zeros((4, 2, 2, 1), np.uint8)
    with pytest.raises(ValueError, match="train data have no labels of all samples"):
        tasks.task(config("bayes")).prepare(Dataset(images, images, 17), tmp_path)
    labels = np.array([1, 1, 1, 1])
    with pytest.raises(ValueError, match="no training data of the classes 0"):
        tasks.task(config("bayes")).prepare(Dataset(images, images, 17, labels, labels), tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "exact"}}, "that is no classifier"),
        ({"training": {"sde": "vesde"}}, "the SDE of the classifier"),
        ({"data": {"image_size": 4}}, "the shape of data of the classifier"),
        ({"data": {"centered": False}}, "the range of data of the classifier"),
    ],
)
def test_a_classifier_of_other_noise_or_data_is_refused(tmp_path, change, message):
    theirs, ours = config("bayes"), config("exact")
    theirs.update(change)
    save_run(theirs, tmp_path)
    ours.guidance.classifier.run = str(tmp_path)
    with pytest.raises(ValueError, match=message):
        guidance.guides(ours, diffusion.sde(ours))


@pytest.mark.thorough
def test_a_missing_classifier_or_class_is_refused(folder, tmp_path):
    ours = config("exact")
    ours.sampling.label = 1
    with pytest.raises(ValueError, match="label needs a model with classes"):
        conditions.conditions(ours)
    ours.sampling.label = -1
    ours.guidance.classifier.run = str(tmp_path)
    with pytest.raises(ValueError, match=r"classifier\.run names: train that run first"):
        guidance.guides(ours, SDE)
    ours.guidance.classifier.run = str(folder)
    ours.sampling.label = 2
    with pytest.raises(ValueError, match="a class, 0 to 1"):
        guidance.guides(ours, SDE)
