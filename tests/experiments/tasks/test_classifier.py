import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments.training.checkpoint import Checkpoints

import models
from configs import digits
from experiments import build
from experiments.data import data
from experiments.evaluation import held_out
from experiments.pipeline import guides, sample
from experiments.runs import workdir
from experiments.tasks import classifier
from experiments.training import state
from sde_lib.batch import expand

MEANS, STD = jnp.array([-0.5, 0.5]), 0.2  # of all pixels of the images of each of two classes


def log_densities(sde, x, t):
    """log p_t(x | class), [B, 2], up to what both share."""
    variance = (sde.alpha(t) * STD) ** 2 + sde.sigma(t) ** 2
    squares = [jnp.sum((x - expand(sde.alpha(t), x) * mean) ** 2, axis=(1, 2, 3)) for mean in MEANS]
    return -0.5 * jnp.stack(squares, axis=1) / variance[:, None]


class Exact(nn.Module):
    """A network with a parameter, so that it can be saved, and nothing to learn."""

    @nn.compact
    def __call__(self, x, labels, train=False):
        self.param("unused", nn.initializers.zeros, (1,))
        sde, t = build.make_sde(digits.get_config()), labels / 999
        if isinstance(self, Bayes):
            return log_densities(sde, x, t)
        score = jax.grad(lambda x: jnp.sum(nn.logsumexp(log_densities(sde, x, t), axis=1)))(x)
        return -score * expand(sde.sigma(t), x)


class Bayes(Exact):
    """The classifier of least error."""


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(models.MODELS, "exact", Exact)
    monkeypatch.setitem(models.MODELS, "bayes", Bayes)
    monkeypatch.setattr(models.registry, "CLASSIFIERS", {"bayes"})


def config(name):
    result = digits.get_config()
    result.model.name = name
    result.data.image_size, result.data.num_classes = 2, 2
    result.eval.batch_size = 512
    return result


def save_run(theirs, folder):
    model = models.create(theirs)
    workdir.claim(theirs, folder)
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, state.init_state(theirs, model))
    checkpoints.close()
    return str(folder)


@pytest.mark.parametrize("label", [-1, 1])
def test_guided_samples_are_those_of_the_class(tmp_path, label):
    """Bayes' rule, exactly: the moments of one component of the mixture."""
    ours = config("exact")
    ours.sampling.n_steps, ours.sampling.batch_size = 200, 256
    ours.training.importance_sampling = False
    ours.sampling.label = label
    ours.sampling.classifier = save_run(config("bayes"), tmp_path / "classifier")
    x, _ = sample.draw(ours, models.create(ours), {"unused": jnp.zeros(1)}, 500)
    for first in (0, 1):
        mean = float(MEANS[first if label < 0 else label])
        part = x[first::2]
        assert part.mean() == pytest.approx(mean, abs=0.02)
        assert part.std() == pytest.approx(STD, rel=0.08)


def test_the_report_is_the_accuracy_of_the_least_error(tmp_path):
    """Of two classes at -+ m of common deviation s the error is Phi(-|m| / s), averaged over t."""
    from scipy import stats

    ours = config("bayes")
    labels = np.arange(4000) % 2
    x = np.asarray(MEANS)[labels][:, None, None, None] + STD * np.random.RandomState(0).randn(
        4000, 2, 2, 1
    )
    grey = np.clip(np.floor((x + 1) * 128), 0, 255).astype(np.uint8)
    dataset = data.Dataset(grey, grey, 256, labels, labels)
    text = held_out.report(ours, models.create(ours), {"unused": jnp.zeros(1)}, dataset)
    sde, t = build.make_sde(ours), np.linspace(1e-5, 1, 2001)
    alpha, sigma = np.asarray(sde.alpha(t)), np.asarray(sde.sigma(t))
    error = stats.norm.cdf(-2 * alpha * 0.5 / np.sqrt((alpha * STD) ** 2 + sigma**2)).mean()
    assert float(text.split()[2].rstrip(",")) == pytest.approx(1 - error, abs=0.03)
    assert "to t = 0.2" in text


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_classes():
    sde = build.make_sde(config("bayes"))
    x0, labels = jnp.zeros((6, 2, 2, 1)), jnp.arange(6) % 3
    losses, _ = classifier.cross_entropy(
        jax.random.key(0), sde, lambda x, t: jnp.zeros((len(t), 3)), x0, labels
    )
    np.testing.assert_allclose(losses, np.log(3), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "exact"}}, "is no classifier"),
        ({"training": {"sde": "vesde"}}, "the SDE of the classifier"),
        ({"data": {"image_size": 4}}, "the shape of data of the classifier"),
        ({"data": {"centered": False}}, "the range of data of the classifier"),
    ],
)
def test_a_classifier_of_other_noise_or_data_is_refused(tmp_path, change, message):
    theirs, ours = config("bayes"), config("exact")
    theirs.update(change)
    ours.sampling.classifier = save_run(theirs, tmp_path)
    with pytest.raises(ValueError, match=message):
        guides.load(ours, build.make_sde(ours), {})


def test_a_missing_classifier_or_class_is_refused(tmp_path):
    ours = config("exact")
    ours.sampling.label = 1
    with pytest.raises(ValueError, match="label needs a model with classes"):
        build.check(ours)
    ours.sampling.label = -1
    ours.sampling.classifier = str(tmp_path)
    with pytest.raises(ValueError, match="give the folder of a trained model"):
        guides.load(ours, build.make_sde(ours), {})
    ours.sampling.classifier = save_run(config("bayes"), tmp_path)
    ours.sampling.label = 2
    with pytest.raises(ValueError, match="a class, 0 to 1"):
        guides.load(ours, build.make_sde(ours), {})
