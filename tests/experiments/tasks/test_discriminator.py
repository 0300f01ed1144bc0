import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights
from closed_forms import SDES
from discriminators import config_of, model_config, save_run, save_samples

import sde_lib
from configs import digits
from experiments.build import data, frozen, guidance, restored, tasks
from experiments.build.components import diffusion, optimization
from experiments.build.fields import configs
from experiments.commands import train
from experiments.commands.request import Request
from experiments.runs import parts
from experiments.runs.samples import read_samples, write_samples
from experiments.tasks import discriminator
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


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_a_frozen_encoder_stays_and_only_the_head_has_moments(model, trained):
    config, folder = trained
    task, mesh = tasks.task(config), optimization.mesh(config)
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


@pytest.mark.thorough
def test_equal_logits_are_a_log_ratio_of_the_odds_of_training(model, tmp_path):
    """Of 20,000 data and 727 samples; nothing else is in them, at the start."""
    source, params = model
    ours = config_of(source)
    save_run(ours, tmp_path)
    tasks.task(ours).prepare(data.dataset(ours), tmp_path)
    config = model_config()
    config.guidance.discriminator.run = str(tmp_path)
    log_ratio, weights = guidance.load_discriminator(config, diffusion.sde(config), params)
    ratio = log_ratio(weights, jnp.ones((3, 2)), jnp.full(3, 0.5))
    np.testing.assert_allclose(ratio, -np.log(20_000 / 727), rtol=1e-6)


@pytest.mark.thorough
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


def test_a_discriminator_of_classes_needs_samples_of_classes(tmp_path):
    config = config_of(tmp_path)
    config.model.class_conditional = True
    with pytest.raises(ValueError, match="samples have no classes on record"):
        tasks.task(config)
    config = config_of_classes(tmp_path)
    save_samples(tmp_path, config)
    with pytest.raises(ValueError, match=r"no classes on record in .*: make them of a class-cond"):
        tasks.task(config)
    write_classes(tmp_path, n_classes=12)
    with pytest.raises(ValueError, match=r"have 12 classes, but config.data.num_classes is 10"):
        data.dataset(config)


def config_of_classes(folder):
    """A class-conditional discriminator of digits, under VP; its samples are EDM's."""
    config = digits.get_config("vp")
    encoder = {"nf": 8, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": []}
    encoder |= {"pool": "adaptive", "num_head_channels": 8, "group_size": 1}
    names = {"name": "discriminator", "encoder": "adm_classifier", "head": "adm_classifier"}
    values = encoder | names | {f"head_{name}": value for name, value in encoder.items()}
    with config.unlocked():
        for name in {*digits.UNET, "model.log_labels"} - {f"model.{name}" for name in encoder}:
            del config.model[name.removeprefix("model.")]
        config.model.update(values)
    config.model.update(parametrization="edm_vp", class_conditional=True)
    config.weighting.name, config.sampling.method = "variance", "predictor_corrector"
    config.sampling.n_steps = None
    config.noise_density.name, config.data.generated_test_fraction = "log_uniform", 0.0
    config.data.generated = str(folder / "generated.npz")
    return config


def write_classes(folder, n_classes=10):
    """Gives the samples in a folder classes in turn, and EDM's SDE."""
    about, samples = read_samples(folder / "generated.npz")
    classes = np.arange(len(samples), dtype=np.int32) % n_classes
    about["sde"] = str(sde_lib.EDM())
    write_samples(folder / "generated.npz", about, samples=samples, class_labels=classes)
    return classes


@pytest.mark.thorough
def test_a_discriminator_of_classes_learns_from_all_samples_and_sees_their_classes(tmp_path):
    """Samples under another SDE are noised anew, and go by the noise level."""
    config = config_of_classes(tmp_path)
    save_samples(tmp_path, config, 300)
    classes = write_classes(tmp_path)
    task, dataset = tasks.task(config), data.dataset(config)
    real = data.images(config)
    assert len(dataset.train) == len(real.train) + 300
    _, conditions = task.values(dataset, "train")
    expected = np.concatenate([real.train_labels, classes])
    np.testing.assert_array_equal(conditions["class"], expected)
    np.testing.assert_array_equal(
        conditions["class_labels"], np.arange(len(expected)) < len(real.train)
    )
    assert task.example_conditions().keys() == conditions.keys()
    params = weights.random(task.model.network, jnp.zeros((1, 8, 8, 1)), jnp.ones(1))

    @jax.jit
    def losses(classes):
        batch = jnp.ones((2, 8, 8, 1)), {"class": classes, "class_labels": jnp.ones(2, int)}
        return task.metrics(params, jax.random.key(0), batch, 0)["loss"]

    one, other = losses(jnp.array([3, 4])), losses(jnp.array([3, 5]))
    assert one[0] == other[0]
    assert abs(one[1] - other[1]) > 1e-6
    config.model.update(parametrization="edm", class_conditional=False)
    assert len(data.dataset(config).train) == len(expected)
    config.model.parametrization = "epsilon"
    with pytest.raises(ValueError, match="are of a model with sde = EDM"):
        data.dataset(config)


def test_samples_are_held_back_as_the_config_asks(model):
    config = config_of(model[0])
    both = {}
    for fraction in (None, 0.25, 0.0):
        config.data.generated_test_fraction = fraction
        found = data.dataset(config)
        both[fraction] = [
            int((labels == 0).sum()) for labels in (found.train_labels, found.test_labels)
        ]
        assert (discriminator.ALL_TRAINED in found.notes) == (fraction == 0)
    assert both == {None: [727, 73], 0.25: [600, 200], 0.0: [800, 73]}
    config.data.generated_test_fraction = 1.0
    with pytest.raises(ValueError, match=r"generated_test_fraction is 1.0: it must be in \[0, 1\)"):
        tasks.task(config)


@pytest.mark.thorough
def test_the_report_says_that_samples_were_trained_on(trained, tmp_path):
    task, params = tasks.task(trained[0]), restored.weights(*trained)[0]
    config = trained[0].copy_and_resolve_references()
    config.data.generated_test_fraction = 0.0
    report = task.accuracy(params, 20, data.dataset(config), tmp_path)
    assert report.lines[0].endswith(discriminator.ALL_TRAINED)
    assert (
        discriminator.ALL_TRAINED
        not in task.accuracy(params, 20, data.dataset(trained[0]), tmp_path).lines[0]
    )


@pytest.mark.thorough
def test_an_encoder_that_sees_the_same_goes_with_other_names(tmp_path):
    """A classifier of 999 t under VP sees what "edm_vp" gives under EDM, with that noise."""
    config = config_of_classes(tmp_path)
    config.model.class_conditional, config.model.pretrained = False, str(tmp_path)
    config.data.generated_test_fraction = None
    theirs = config.copy_and_resolve_references()
    theirs.model.update(name="adm_classifier", parametrization="score_sde", pretrained="")
    theirs.noise_density.name = "uniform"
    configs.save(theirs, tmp_path)
    for sde in ("vpsde", "edm"):
        config.training.sde = sde
        assert frozen.encoder_config(config).model.parametrization == "score_sde"
    config.model.parametrization = "edm"
    with pytest.raises(ValueError, match=r"the SDE of the encoder in .* is VP"):
        frozen.encoder_config(config)
    config.training.sde = "vpsde"
    with pytest.raises(ValueError, match=r"has model.parametrization = 'score_sde', the encoder"):
        frozen.encoder_config(config)


def test_the_state_of_a_run_is_known_without_its_encoders_run(trained):
    """As commands that use it need it: the same shapes as in training."""
    config, folder = trained
    ours, mesh = tasks.task(config), optimization.mesh(config)
    shapes, again = (
        jax.tree.map(lambda leaf: leaf.shape, abstract_state(task, config.seed, mesh))
        for task in (ours, restored.skeleton(config))
    )
    assert shapes == again
    assert restored.weights(config, folder)[1] == 20
