import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import SDES
from discriminators import config_of, model_config, save_run, save_samples

import sde_lib
from configs import digits
from experiments.build import components, data, guidance, related, tasks
from experiments.build.fields import configs
from experiments.commands import train
from experiments.commands.request import Request
from experiments.runs import parts
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import abstract_state, init_state
from sde_lib import noise_density


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model with samples, and its weights."""
    folder = tmp_path_factory.mktemp("model")
    params = save_run(model_config(), folder)
    save_samples(folder, model=parts.digest(params))
    return folder, params


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """The config and the folder of its discriminator: head trained, encoder the model's."""
    source, _ = model
    config, folder = config_of(source, pretrained=str(source)), tmp_path_factory.mktemp("trained")
    train.run(Request(config, folder))
    return config, folder


@pytest.mark.parametrize("sde", [*SDES.values(), sde_lib.EDM()], ids=repr)
def test_a_uniform_log_snr_is_the_published_importance_sampling(sde):
    """The density of t is g^2 / sigma^2, normalised: its integral up to the u-quantile is u."""
    u = jnp.array([0.1, 0.5, 0.9])
    quantiles = sde.inverse_log_snr(noise_density.log_uniform(sde)(u))
    ends = np.log([sde.train_t_min, *quantiles, sde.t_max])
    masses = []
    for low, high in itertools.pairwise(ends):
        t = np.exp(np.linspace(low, high, 2001))
        density = np.asarray(sde.diffusion(jnp.asarray(t)) ** 2 / sde.sigma(jnp.asarray(t)) ** 2)
        masses.append(np.trapezoid(density, t))
    np.testing.assert_allclose(np.cumsum(masses)[:-1] / np.sum(masses), u, atol=2e-3)


def test_data_and_samples_are_two_classes_and_both_have_test_sets(model):
    config = config_of(model[0])
    real, both = data.images(config), data.dataset(config)
    with np.load(config.data.generated) as file:
        samples = file["samples"]
    for part, ours, fakes in (
        ("train", real.train, samples[:727]),
        ("test", real.test, samples[727:]),
    ):
        values, labels = getattr(both, part), getattr(both, f"{part}_labels")
        assert len(values) == len(labels) == len(ours) + len(fakes)
        shuffled = np.random.RandomState(0).permutation(len(labels))
        for label, expected in ((1, ours), (0, fakes)):
            rows = shuffled[labels[shuffled] == label]
            first = 0 if label else len(ours)
            np.testing.assert_array_equal(values[rows], expected[rows - first])


def test_a_frozen_encoder_stays_and_only_the_head_has_moments(model, trained):
    config, folder = trained
    task, mesh = tasks.task(config), components.mesh(config)
    like = abstract_state(task, config.seed, mesh)
    before = task.start(init_state(task, config.seed, like))
    after = Checkpoints(folder, read_only=True).restore(like)
    for kept in (before.params, before.ema_params, after.params, after.ema_params):
        for name, values in kept["encoder"].items():
            jax.tree.map(np.testing.assert_array_equal, values, model[1][name])
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), before.params["head"], after.params["head"]
    )
    assert max(jax.tree.leaves(moved)) > 1e-3
    n_head = sum(leaf.size for leaf in jax.tree.leaves(after.params["head"]))
    n_moments = sum(leaf.size for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim)
    assert n_moments == 2 * n_head


def test_equal_logits_are_a_log_ratio_of_the_odds_of_training(model, tmp_path):
    """Of 20,000 data and 727 samples; nothing else is in them, at the start."""
    source, params = model
    ours = config_of(source)
    save_run(ours, tmp_path)
    tasks.task(ours).prepare(data.dataset(ours), tmp_path)
    config = model_config()
    config.guidance.discriminator.run = str(tmp_path)
    log_ratio, weights = guidance.load_discriminator(config, components.sde(config), params)
    ratio = log_ratio(weights, jnp.ones((3, 2)), jnp.full(3, 0.5))
    np.testing.assert_allclose(ratio, -np.log(20_000 / 727), rtol=1e-6)


def test_a_run_is_of_one_set_of_samples(trained, tmp_path):
    save_samples(tmp_path, step=2)
    config = config_of(tmp_path)
    with pytest.raises(ValueError, match="was trained on other samples than those that are now"):
        tasks.task(config).prepare(data.dataset(config), trained[1])


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("training", {"sde": "vesde"}, "are of a model with sde = VP.*here it is VE"),
        ("data", {"centered": False}, r"with range = \[-1.0, 1.0\], here it is \[0.0, 1.0\]"),
        ("data", {"uniform_dequantization": False}, "with uniform_dequantization = True"),
        ("data", {"generated": "nowhere.npz"}, "nowhere.npz is no file of samples: make one"),
    ],
)
def test_samples_of_other_noise_or_data_are_refused(model, section, values, message):
    config = config_of(model[0])
    config[section].update(values)
    with pytest.raises(ValueError, match=message):
        data.dataset(config)


def test_samples_of_another_shape_or_too_few_are_refused(tmp_path):
    save_samples(tmp_path, digits.get_config("vp_score_sde"))
    with pytest.raises(ValueError, match=r"with shape = \[8, 8, 1\], here it is \[2\]"):
        data.dataset(config_of(tmp_path))
    save_samples(tmp_path, n=4)
    with pytest.raises(ValueError, match=r"the 4 samples in .* are too few"):
        data.dataset(config_of(tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.nf": 16}, "has model.nf = 16, the encoder here 8"),
        ({"model.parametrization": "x0"}, "has model.parametrization = 'x0'"),
        ({"training.sde": "vesde"}, "the SDE of the encoder in .* is VE"),
        ({"data.centered": False}, "the range of data of the encoder"),
    ],
)
def test_encoders_of_another_run_are_refused(tmp_path, values, message):
    theirs = model_config()
    theirs.update_from_flattened_dict(values)
    configs.save(theirs, tmp_path)
    with pytest.raises(ValueError, match=message):
        tasks.task(config_of(tmp_path, pretrained=str(tmp_path)))


def test_an_encoder_of_another_kind_is_refused(tmp_path):
    configs.save(digits.get_config("edm"), tmp_path)
    config = digits.get_config("discriminator")
    config.model.update(encoder="wideresnet", pretrained=str(tmp_path))
    with pytest.raises(ValueError, match=r"has model.name = 'ncsnpp', the encoder here 'wideres"):
        tasks.task(config)


def test_a_discriminator_of_classes_cannot_be_trained(tmp_path):
    config = config_of(tmp_path)
    config.model.class_conditional = True
    with pytest.raises(ValueError, match="samples have no classes on record"):
        tasks.task(config)


def test_the_state_of_a_run_is_known_without_its_encoders_run(trained):
    """As commands that use it need it: the same shapes as in training."""
    config, folder = trained
    ours, mesh = tasks.task(config), components.mesh(config)
    shapes, again = (
        jax.tree.map(lambda leaf: leaf.shape, abstract_state(task, config.seed, mesh))
        for task in (ours, related.skeleton(config))
    )
    assert shapes == again
    assert related.weights(config, folder)[1] == 20
