import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saved_runs
from closed_forms import Gaussian
from exact_models import pipeline

import experiments
import samplers
from configs import digits, points
from experiments.build import pipelines
from experiments.pipeline.classifier_free import ClassifierFree
from experiments.pipeline.conditions import ClassLabel, Conditions
from experiments.pipeline.guidance import Discriminator, EpsilonScaling, TimeShift
from experiments.pipeline.model import LikelihoodOptions
from experiments.runs import progress
from samplers.guidance_schedules import Schedule


def tiny_points():
    config = points.get_config("moons")
    config.model.nf, config.model.num_res_blocks = 8, 1
    config.sampling.method, config.sampling.n_steps = "euler", 5
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of points, with checkpoints of steps 1 and 4, and its weights."""
    folder = tmp_path_factory.mktemp("points") / "run"
    return folder, saved_runs.save(tiny_points(), folder, steps=(1, 4))


@pytest.fixture(scope="module")
def gaussian():
    """A model of points that are N(0.3, 0.7^2)."""
    likelihood = LikelihoodOptions(1e-5, 1e-5, "exact")
    return pipeline(points.get_config(), likelihood=likelihood)


@pytest.fixture(scope="module")
def x():
    return Gaussian().sample(jax.random.key(0), (64, 2))


@pytest.mark.thorough
def test_densities_and_codes_say_that_they_are_at_work(gaussian, x, monkeypatch, caplog):
    monkeypatch.setattr(progress, "LINES_AFTER", 0.0)
    caplog.set_level("INFO", progress.LOG.name)
    gaussian.log_likelihood(x)
    gaussian.decode(gaussian.encode(x))
    titles = {message.split(":")[0] for message in caplog.messages}
    assert titles >= {"log-likelihood", "encoding", "decoding"}


@pytest.mark.thorough
def test_a_run_is_loaded_from_its_folder(run, monkeypatch):
    folder, params = run
    model = experiments.load(folder)
    assert (model.step, model.folder, model.shape) == (4, folder, (2,))
    assert experiments.load(str(folder), step=1).step == 1
    monkeypatch.setenv("HOME", str(folder.parent))
    assert experiments.load(f"~/{folder.name}", step=1).step == 1
    jax.tree.map(np.testing.assert_array_equal, model.params, params)
    t, x = jnp.array([0.1, 0.9]), jnp.ones((2, 2))
    labels = model.model.preconditioning.label(t)
    output = model.network.apply({"params": params}, x, labels)
    expected = -output / model.sde.sigma(t)[:, None]
    np.testing.assert_allclose(model.score_fn()(x, t), expected, rtol=1e-5)


@pytest.mark.thorough
def test_sample_i_depends_on_the_seed_and_on_i_alone(run):
    model = experiments.load(run[0])
    first = model.sample(6, seed=0)
    assert first.shape == (6, 2)
    np.testing.assert_allclose(model.sample(4, seed=0), first[:4], atol=1e-6)
    np.testing.assert_allclose(model.replace(batch_size=4).sample(6, 0), first, atol=1e-6)
    assert np.abs(model.sample(6, seed=1) - first).min() > 1e-4
    np.testing.assert_array_equal(model.replace(seed=0).sample(6), first)


@pytest.mark.thorough
def test_a_sampler_is_chosen_by_name_or_given(run):
    model = experiments.load(run[0], overrides={"sampling.method": "heun", "sampling.n_steps": 3})
    heun = samplers.create("heun", n_steps=3)
    assert model.sampler == heun
    euler = model.sample(3, sampler=samplers.create("euler", n_steps=3))
    assert np.abs(euler - model.sample(3)).max() > 1e-4
    np.testing.assert_array_equal(model.sample(3, sampler=heun), model.sample(3))
    by_name = dataclasses.replace(samplers.create("ddim"), n_steps=samplers.create("ddim").n_steps)
    np.testing.assert_array_equal(model.sample(1, sampler="ddim"), model.sample(1, sampler=by_name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 2}, r"has no checkpoint of step 2: it has \[1, 4\]"),
        ({"overrides": {"training.batch_size": 4}}, "config.training.batch_size: the model in"),
        ({"overrides": {"sampling.n_stepz": 4}}, "did you mean 'sampling.n_steps'"),
        ({"overrides": {"sampling.cfg_weight": 2}}, "now config.guidance.classifier_free.weight"),
        ({"overrides": {"sampling.corrector": "langevin"}}, "'euler' has no such option"),
    ],
    ids=str,
)
def test_a_run_is_not_loaded_with_impossible_options(run, options, message):
    with pytest.raises(ValueError, match=message):
        experiments.load(run[0], **options)


def test_a_folder_without_a_score_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*nothing"):
        experiments.load(tmp_path / "nothing")
    config = digits.get_config("classifier")
    pipelines.configs.save(config, tmp_path / "classifier")
    with pytest.raises(ValueError, match="'wideresnet', a classifier, which has no samples"):
        experiments.load(tmp_path / "classifier")


@pytest.mark.thorough
def test_log_likelihoods_are_the_closed_form(gaussian, x):
    result = gaussian.log_likelihood(x)
    latent, log_det = Gaussian().flow(gaussian.sde, x, gaussian.sde.train_t_min)
    expected = gaussian.sde.prior_logp(latent) + log_det
    np.testing.assert_allclose(result.log_prob, expected, atol=2e-3)
    bits = gaussian.bits_per_dim(np.asarray(x))
    np.testing.assert_allclose(bits.each, -result.log_prob / (2 * np.log(2)), atol=1e-3)
    assert bits.mean == pytest.approx(bits.each.mean())


@pytest.mark.thorough
def test_encoding_is_the_flow_and_decoding_its_inverse(gaussian, x):
    latent = gaussian.encode(x)
    expected, _ = Gaussian().flow(gaussian.sde, x, gaussian.sde.train_t_min)
    np.testing.assert_allclose(latent, expected, atol=5e-3)
    np.testing.assert_allclose(gaussian.decode(latent), x, atol=1e-3)


@pytest.mark.thorough
def test_programs_are_compiled_once_for_all_weights_and_seeds():
    """Other weights and seeds are arguments; another sampler, or a class, is another program."""
    config = points.get_config()
    config.sampling.update(method="heun", n_steps=4)
    model = pipeline(config, lambda x, t: -x)
    x, z, same = model.sample(2), model.encode(np.ones((2, 2))), model.replace(params={}, step=3)
    compiled = len(model.programs)
    assert compiled == 2
    np.testing.assert_array_equal(same.sample(2), x)
    np.testing.assert_array_equal(same.encode(np.ones((2, 2))), z)
    assert np.abs(same.sample(2, seed=7) - x).max() > 0.1
    assert len(model.programs) == compiled
    assert all(program._advance._cache_size() == 1 for program in model.programs.values())
    shorter = model.replace(sampler=samplers.create("heun", n_steps=2))
    assert not shorter.programs
    assert np.abs(shorter.sample(2) - x).max() > 1e-3


def test_images_of_samples(gaussian):
    config = digits.get_config("vp_score_sde")
    model = pipelines.untrained(config)
    x = np.array([-2, -1, 0, 0.999, 2], np.float32)
    np.testing.assert_array_equal(model.to_images(x), [0, 0, 128, 255, 255])
    np.testing.assert_array_equal(model.to_data(x), [0, 0, 8, 16, 16])  # 17 grey levels
    np.testing.assert_array_equal(gaussian.to_data(x), x)


@pytest.mark.parametrize("values", [np.full((1, 8, 8, 1), 17, np.uint8), np.zeros((1, 8, 8, 1))])
def test_bits_are_of_the_grey_levels_of_the_data(values):
    with pytest.raises(ValueError, match=r"grey levels 0 to 16, and these values are .*to_data"):
        pipelines.untrained(digits.get_config("vp_score_sde")).bits_per_dim(values)


@pytest.mark.thorough
def test_a_class_and_a_guidance_scale_are_asked_for():
    """Of Gaussians whose mean is the class; no class is a mean of 0."""
    config = points.get_config()
    seen = []

    def score(x, t, class_labels):
        seen.append(len(x))
        mean = jnp.maximum(class_labels, 0.0)
        sde = model.sde
        shift = (sde.alpha(t) * mean)[:, None]
        return -(x - shift) / (sde.alpha(t) ** 2 * 0.01 + sde.sigma(t) ** 2)[:, None]

    conditions = Conditions((ClassLabel(4),), dropout=0.1)
    sampler = samplers.create("heun", n_steps=12)
    model = pipeline(config, score, conditions=conditions, sampler=sampler)
    in_turn = model.sample(8).mean(axis=1)
    np.testing.assert_allclose(in_turn, [0, 1, 2, 3] * 2, atol=0.5)
    np.testing.assert_allclose(model.sample(4, label=[3, 1]).mean(1), [3, 1, 3, 1], atol=0.5)
    assert set(seen) == {4, 8}
    guided = model.sample(4, label=2, guidance=3.0).mean(1)
    np.testing.assert_allclose(guided, 6.0, atol=0.5)
    with pytest.raises(ValueError, match="label is 4: it must be a class, 0 to 3"):
        model.sample(1, label=4)
    with pytest.raises(ValueError, match="prompt is 'a cat', but this model has no such"):
        model.sample(1, prompt="a cat")


def test_the_identity_changes_with_all_that_decides_on_samples(gaussian):
    identity = gaussian.identity()
    assert gaussian.replace(seed=1, batch_size=3, step=9).identity() == identity
    sampler = gaussian.sampler
    changes = [
        {"params": {"w": np.ones(1)}},
        {"sampler": samplers.create("euler", n_steps=3)},
        {"sampler": dataclasses.replace(sampler, n_steps=sampler.n_steps + 1)},
        {"guides": (EpsilonScaling(1.1),)},
        {"guides": (EpsilonScaling(1.2),)},
        {"conditions": Conditions((ClassLabel(3),))},
        {"conditions": Conditions((ClassLabel(3, (1,)),))},
        {"conditions": Conditions((ClassLabel(3, (1,), 2),), 0.1)},
    ]
    digests = {gaussian.replace(**fields).identity() for fields in changes}
    assert len(digests | {identity}) == len(changes) + 1


def langevin():
    config = points.get_config()
    config.training.sde, config.sampling.method = "cld", "predictor_corrector"
    return pipelines.untrained(config)


class LosesVariance(EpsilonScaling):
    """A guide of a user who knows of no variances."""

    def apply(self, scores, params, sde, indices):
        return lambda x, t: scores(x, t)


CLASSES = Conditions((ClassLabel(3),), 0.1)
SCHEDULE = Schedule("interval", (("high", 1.0), ("low", 0.1)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classifier_free": ClassifierFree(2.0)}, "needs a model with classes"),
        (
            {"classifier_free": ClassifierFree(2.0), "conditions": Conditions((ClassLabel(3),))},
            "need the unconditional score, which this model has not learned",
        ),
        (
            {
                "sampler": samplers.create("ddpm", variance="learned"),
                "guides": (LosesVariance(1.1),),
            },
            "the guide LosesVariance returns a score function without the variance",
        ),
        (
            {"classifier_free": ClassifierFree(2.0, channels=4), "conditions": CLASSES},
            r"classifier_free\.channels is 4, but the model's data have 2",
        ),
        (
            {
                "guides": (Discriminator(lambda *_: 0.0, ()),),
                "sampler": samplers.create("predictor_corrector"),
            },
            "PredictorCorrector does not tell",
        ),
        (
            {
                "guides": (Discriminator(lambda *_: 0.0, ()),),
                "conditions": CLASSES,
                "sampler": samplers.create("heun"),
            },
            "knows data alone, but this model has conditions",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_parts_that_do_not_go_together_are_refused(gaussian, fields, message):
    with pytest.raises(ValueError, match=message):
        gaussian.replace(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guides": (TimeShift(0.1),)}, "TimeShift goes by the noise level, which CLD.* does not"),
        (
            {"classifier_free": ClassifierFree(2.0, schedule=SCHEDULE), "conditions": CLASSES},
            "config.guidance.schedule and form go by the noise level, which the SDE CLD does not",
        ),
    ],
)
def test_what_needs_a_noise_level_is_refused_without_one(fields, message):
    with pytest.raises(ValueError, match=message):
        langevin().replace(**fields)
