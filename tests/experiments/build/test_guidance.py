import dataclasses
import json
from typing import Any, ClassVar

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saved_runs
from exact_models import guided, pipeline
from guided_models import write_pair
from torch_writer import save_zip, tensor

import experiments
from configs import digits, points
from experiments.build import guidance, pipelines, published, restored
from experiments.build.components import diffusion, networks
from experiments.build.fields import sections
from experiments.commands import generate, import_weights, train
from experiments.commands.request import Request
from experiments.pipeline import guidance as guides
from experiments.runs import parts
from experiments.tasks.discriminator import RECORD
from sde_lib import ScoreAndVariance


def model_config(**changes):
    config = points.get_config("moons")
    config.model.nf, config.model.num_res_blocks = 8, 1
    config.sampling.method, config.sampling.n_steps = "euler", 4
    config.update_from_flattened_dict({n.replace("__", "."): v for n, v in changes.items()})
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of a score model, a classifier and a discriminator of its samples; the weights."""
    folder = tmp_path_factory.mktemp("runs")
    params = saved_runs.save(model_config(), folder / "model")
    theirs = model_config(model__name="discriminator", model__encoder="mlp")
    saved_runs.save(theirs, folder / "discriminator")
    about = {"model": parts.digest(params), "step": 1, "log_odds": 0.5}
    (folder / "discriminator" / RECORD).write_text(json.dumps(about))
    return folder, params


def load(runs, params=None, **changes):
    config = model_config(**changes)
    return guidance.guides(config, diffusion.sde(config), params or runs[1])


def test_a_discriminator_gives_the_log_ratio_of_data_and_samples(runs):
    """The difference of its logits, less the log odds of training."""
    folder = runs[0] / "discriminator"
    (guide,) = load(runs, guidance__discriminator__run=str(folder))
    x, t = jnp.ones((3, 2)), jnp.array([0.2, 0.5, 0.9])
    theirs = pipelines.configs.load(folder)
    model = networks.noise_model(theirs, diffusion.sde(theirs), (2,))
    logits = model.outputs(guide.params)(x, t)
    log_ratio = guide.log_ratio(guide.params, x, t)
    np.testing.assert_allclose(log_ratio, logits[:, 1] - logits[:, 0] - 0.5, rtol=1e-5)
    assert (guide.weight, guide.weight_2nd_order, guide.boost) == (1.0, 0.0, False)


def test_a_checkpoint_of_the_discriminator_guides_by_its_step(runs, tmp_path):
    """Its probability is clipped to [1e-5, 1 - 1e-5], as published."""
    theirs = model_config(model__name="discriminator", model__encoder="mlp")
    shapes = jax.eval_shape(restored.skeleton(theirs).init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f4"), shapes)
    for step, bias in ((1, 0.0), (2, 99.0)):
        zeros["head"]["Dense_0"]["bias"] = np.array([0.0, bias], "f4")
        saved_runs.save(theirs, tmp_path, zeros, (step,))
    about = {"model": parts.digest(runs[1]), "step": 1, "log_odds": 0.5}
    (tmp_path / RECORD).write_text(json.dumps(about))
    options = {"guidance__discriminator__run": str(tmp_path)}
    biases = {}
    for step in (None, 1, 2):
        (guide,) = load(runs, guidance__discriminator__step=step, **options)
        biases[step] = guide.params["head"]["Dense_0"]["bias"][1]
    assert biases == {None: 99, 1: 0, 2: 99}
    (guide,) = load(runs, **options)
    ratio = jax.jit(guide.log_ratio)(guide.params, jnp.ones((1, 2)), jnp.ones(1))
    np.testing.assert_allclose(ratio, np.log((1 - 1e-5) / 1e-5), rtol=1e-5)
    with pytest.raises(ValueError, match=r"no checkpoint of step 3: it has \[1, 2\]"):
        load(runs, guidance__discriminator__step=3, **options)
    with pytest.raises(ValueError, match=r"discriminator.step is 3, which does nothing without"):
        load(runs, guidance__discriminator__step=3)


def test_folders_of_something_else_are_refused(runs, tmp_path):
    folder, params = runs
    with pytest.raises(ValueError, match="holds the model 'mlp': that is no discriminator; give"):
        load(runs, guidance__discriminator__run=str(folder / "model"))
    discriminator = str(folder / "discriminator")
    with pytest.raises(ValueError, match="holds the model 'discriminator': that is no classifier"):
        load(runs, guidance__classifier__run=discriminator)
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    with pytest.raises(ValueError, match=r"be guided is .*, another or at another step"):
        load(runs, other, guidance__discriminator__run=discriminator)
    saved_runs.save(model_config(model__name="discriminator", model__encoder="mlp"), tmp_path)
    with pytest.raises(ValueError, match="knows samples of the model none"):
        load(runs, guidance__discriminator__run=str(tmp_path))
    with pytest.raises(ValueError, match="the range of data of the discriminator"):
        load(runs, guidance__discriminator__run=discriminator, data__centered=False)
    with pytest.raises(ValueError, match="the SDE of the discriminator"):
        load(runs, guidance__discriminator__run=discriminator, training__sde="vesde")


def test_guides_are_in_the_order_of_their_table(runs):
    options = {
        "guidance__time_shift__window": 0.1,
        "guidance__epsilon_scaling__scale": 1.1,
        "guidance__discriminator__run": str(runs[0] / "discriminator"),
    }
    order = [type(guide).__name__ for guide in load(runs, **options)]
    assert order == ["TimeShift", "EpsilonScaling", "Discriminator"]
    options["guidance__epsilon_scaling__guided"] = True
    order = [type(guide).__name__ for guide in load(runs, **options)]
    assert order == ["TimeShift", "Discriminator", "EpsilonScaling"]


def test_the_schedule_needs_something_to_guide():
    config = model_config(guidance__schedule__name="cosine")
    with pytest.raises(ValueError, match="schedule is set, but there is nothing to guide"):
        guided(config)


@pytest.mark.slow
def test_a_discriminator_of_samples_makes_them_more_like_the_data(tmp_path):
    """generate, train and load: of a model that never moves a sample, of too wide a start."""
    config = model_config(sampling__n_samples=10_000, sampling__batch_size=10_000)
    config.sampling.n_steps, config.sampling.sigma_max = 8, 2.0
    config.noise_density.name = "log_uniform"
    objective = restored.skeleton(config)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    saved_runs.save(config, tmp_path, jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f4"), shapes))
    generate.run(Request(config, tmp_path))
    theirs = model_config(model__name="discriminator", model__encoder="mlp")
    theirs.noise_density.name = "log_uniform"
    theirs.data.generated = str(tmp_path / "generated.npz")
    theirs.training.update(n_iters=300, batch_size=512, at_end=())
    theirs.optim.lr = 1e-2
    train.run(Request(theirs, tmp_path / "discriminator"))
    plain = experiments.load(tmp_path)
    folder = str(tmp_path / "discriminator")
    guided = experiments.load(tmp_path, overrides={"guidance.discriminator.run": folder})
    assert plain.sample(1000).std() == pytest.approx(2, rel=0.1)
    assert guided.sample(1000).std() < 1.6  # that of the data is 0.9


@dataclasses.dataclass(frozen=True)
class Push:
    """A toy guide: a constant force."""

    strength: float
    params: Any = ()
    needs_noise_level: ClassVar[bool] = False

    def apply(self, scores, params, sde, indices):
        return jax.tree.map(lambda fn: lambda x, t: fn(x, t) + self.strength, scores)


def test_a_new_guide_is_a_class_and_a_line(monkeypatch):
    """Its section is found by its name, and its force is in the score that is sampled."""
    monkeypatch.setitem(guides.GUIDES, "push", Push)
    config = model_config()
    assert guided(config).guides == ()
    with config.unlocked():
        config.guidance.push = {"strength": 2.0}
    model = pipeline(config)
    assert model.guides == (Push(2.0),)
    one_step = model.replace(sampler=dataclasses.replace(model.sampler, n_steps=1))
    pushed, plain = one_step.sample(4), one_step.replace(guides=()).sample(4)
    change = pushed - plain
    np.testing.assert_allclose(change, change[0, 0], rtol=1e-3)
    assert change[0, 0] > 0.1


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """An imported run of the golden pair of discriminator guidance, and the file's numbers."""
    folder = tmp_path_factory.mktemp("pair")
    arrays = write_pair(folder / "files")
    config = published.open_(folder / "files").config()
    import_weights.run(Request(config, folder / "run", str(folder / "files")))
    return folder / "run", arrays


def edm_config(**changes):
    """A model of images of the pair's size under EDM's SDE, with ten classes."""
    config = digits.get_config("edm")
    config.data.update(image_size=16, num_channels=3, num_classes=10, dataset="folder")
    config.model.class_conditional = True
    config.sampling.method = "edm"
    for name, value in changes.items():
        sections.put(config, name.replace("__", "."), value)
    return config


def no_score(x, t):
    return jnp.zeros_like(x)


def test_an_imported_discriminator_adds_what_the_published_sampler_adds(pair, caplog):
    """dx/dsigma = -sigma score gets w / sigma times the golden term, of each sample's class."""
    run, arrays = pair
    config = edm_config(guidance__discriminator__run=str(run), guidance__discriminator__weight=2.0)
    config.sampling.labels = arrays["class_labels"].argmax(1).tolist()
    sde = diffusion.sde(config)
    (guide,) = guidance.guides(config, sde, {"w": jnp.ones(1)})
    assert "was imported: it is not known whether it was trained on samples" in caplog.text
    assert (guide.n_classes, guide.weight) == (10, 2.0)

    first, later = guide.apply(no_score, guide.params, sde, jnp.arange(3))
    first = jax.jit(first)
    x, sigma = golden.channels_last(arrays["x_hat"]), jnp.asarray(arrays["sigma"], jnp.float32)
    np.testing.assert_array_equal(later(x, sigma), 0)
    added = -sigma[:, None, None, None] * first(x, sigma)
    expected = 2.0 / arrays["sigma"][:, None, None, None] * golden.channels_last(arrays["guidance"])
    golden.assert_samples_close(added, expected, 1e-5)
    added = first(x, jnp.array([0.03, 200.0, 0.05]))  # tau below 0.01, above 1, and inside
    assert [bool(np.any(each)) for each in added] == [False, False, True]

    params = jax.tree.map(lambda leaf: leaf, guide.params)
    params["head"]["AttentionPool_0"]["NIN_3"]["bias"] = jnp.full(1, 99.0)
    ratio = jax.jit(guide.log_ratio)(params, x, sigma, class_labels=jnp.zeros(3, int))
    np.testing.assert_allclose(ratio, np.log((1 - 1e-5) / 1e-5), rtol=1e-5)  # clipped


def test_an_imported_discriminator_of_classes_needs_a_model_of_classes(pair):
    run = str(pair[0])
    config = edm_config(guidance__discriminator__run=run, model__class_conditional=False)
    with pytest.raises(ValueError, match="knows classes, which the model does not"):
        guidance.guides(config, diffusion.sde(config), {})
    config = edm_config(guidance__discriminator__run=run, data__num_classes=1001)
    with pytest.raises(
        ValueError, match=r"knows 1000 classes, but config.data.num_classes is 1001"
    ):
        guidance.guides(config, diffusion.sde(config), {})
    config = edm_config(guidance__discriminator__run=run, data__centered=False)
    with pytest.raises(ValueError, match="the range of data of the discriminator"):
        guidance.guides(config, diffusion.sde(config), {})
    config = edm_config(guidance__discriminator__run=run, training__sde="vpsde")
    config.model.parametrization = "epsilon"
    assert guidance.guides(config, diffusion.sde(config), {})  # any SDE
    model = pipelines.untrained(config)
    config.guidance.discriminator.weight_2nd_order = 1.0
    made = guidance.guides(config, model.sde, {})
    assert model.replace(guides=made).asked(None, 3, None).guides[0].labels == (3,)


def test_an_imported_classifier_guides_a_model_of_its_chain(tmp_path):
    """At level i it sees x itself and the label i, as in guided-diffusion."""
    arrays = golden.load("guided_diffusion_encoder")
    state = {name: tensor(value) for name, value in golden.state_dict(arrays).items()}
    path = tmp_path / "16x16_classifier.pt"
    save_zip(path, state)
    theirs = published.open_(path).config()
    theirs.model.num_head_channels = 32
    import_weights.run(Request(theirs, tmp_path / "run", str(path)))
    config = edm_config(guidance__classifier__run=str(tmp_path / "run"), training__sde="vpsde")
    config.model.parametrization, config.training.continuous = "epsilon", False
    config.data.num_classes = 7
    config.sampling.labels = arrays["class_labels"].tolist()
    sde = diffusion.sde(config)
    (guide,) = guidance.guides(config, sde, {})
    t = jnp.asarray(arrays["timesteps"] / 999, jnp.float32)

    def both(x, t):
        return jnp.zeros_like(x), jnp.ones_like(x)

    score_fn = guide.apply(ScoreAndVariance(both), guide.params, sde, jnp.arange(4))
    score, variance = jax.jit(score_fn.both)(golden.channels_last(arrays["x"]), t)
    golden.assert_samples_close(score, golden.channels_last(arrays["gradient"]), 1e-5)
    np.testing.assert_array_equal(variance, 1)  # that of a step stays the model's own
