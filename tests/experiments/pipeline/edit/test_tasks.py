import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from exact_models import pipeline

import samplers
from configs import digits
from experiments.build.components import diffusion
from experiments.pipeline.edit import Edit, create
from experiments.pipeline.guidance import Classifier, Clip, Discriminator, EpsilonScaling
from samplers import measurement
from sde_lib.batch import expand

DDIM = samplers.create("ddim", n_steps=12)
SDE = diffusion.sde(digits.get_config("vp_score_sde"))
MEANS = jnp.array([-0.8, 0.1, 0.8])


def classes(x, t, class_labels):
    """The score of N(mean, 0.3^2), the mean that of the class; 0.1 without one."""
    mean = expand(jnp.where(class_labels < 0, 0.1, MEANS[class_labels]), x)
    alpha, sigma = expand(SDE.alpha(t), x), expand(SDE.sigma(t), x)
    return -(x - alpha * mean) / ((alpha * 0.3) ** 2 + sigma**2)


def config(**changes):
    result = digits.get_config("vp_score_sde")
    result.update_from_flattened_dict(changes)
    return result


@pytest.fixture(scope="module")
def model():
    """A model of Gaussian images of 8 x 8 pixels."""
    return pipeline(config(), sampler=DDIM)


@pytest.fixture(scope="module")
def of_classes():
    """A model of images of three classes, trained with dropout of labels."""
    changes = {"model.class_conditional": True, "model.label_dropout": 0.1, "data.num_classes": 3}
    return pipeline(config(**changes), classes, sampler=DDIM)


@pytest.fixture(scope="module")
def x():
    return np.asarray(Gaussian().sample(jax.random.key(0), (3, 8, 8, 1)))


def results(columns):
    return [column for title, column in columns.items() if title.startswith("result")]


@pytest.mark.thorough
def test_nothing_changed_is_the_input_and_everything_the_plain_sample(model, x):
    for column in results(model.edit(x, "variations", strength=0.0, n_results=2)):
        np.testing.assert_array_equal(column, x)
    masked = model.edit(x, "inpaint", strength=0.0, content="original", n_results=1)
    np.testing.assert_array_equal(masked["result 1"], x)
    (whole,) = results(model.edit(x, "variations", strength=1.0, n_results=1, seed=3))
    np.testing.assert_array_equal(whole, model.sample(3, seed=3))


def half_the_square(params, x, t):
    return 0.5 * jnp.sum(x**2, axis=(1, 2, 3))


def log_probs(params, x, t):
    return jax.nn.log_softmax(jnp.mean(x, axis=(1, 2, 3))[:, None] * jnp.arange(3.0))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("guides", "asked"),
    [
        ((EpsilonScaling(1.1),), {}),
        ((Discriminator(half_the_square, (), 0.3, 0.1),), {"sampler": "heun"}),
        ((Classifier(log_probs, (), 3), Clip(1.0)), {"label": 2}),
        ((), {"label": [2, 0, 1]}),
        ((), {"label": 1, "guidance": 3.0}),
    ],
    ids=["epsilon_scaling", "discriminator", "classifier", "classes", "classifier_free"],
)
def test_an_edit_of_full_strength_is_guided_as_samples_are(guides, asked, model, of_classes, x):
    """Bit for bit: it is the same composition. Heun has a score for each evaluation of a step."""
    model = (of_classes if "label" in asked and not guides else model).replace(guides=guides)
    (edited,) = results(model.edit(x, "variations", strength=1.0, n_results=1, **asked))
    np.testing.assert_array_equal(edited, model.sample(3, **asked))


@pytest.mark.thorough
def test_what_is_made_is_of_the_class_and_guided_to_it(of_classes, x):
    def mean(**asked):
        made = of_classes.edit(0 * x, "inpaint", n_results=4, **asked)
        return np.mean([result[:, :, 4:] for result in results(made)], axis=(0, 2, 3, 4))

    np.testing.assert_allclose(mean(label=[2, 0, 1]), MEANS[jnp.array([2, 0, 1])], atol=0.15)
    np.testing.assert_allclose(mean(), 0.1, atol=0.15)  # no class is asked for, and none taken
    assert (mean(label=2, guidance=2.0) > 1.2).all()


@pytest.mark.thorough
def test_a_classifier_and_a_discriminator_guide_what_is_made(model, x):
    """Both guide to larger means, around what is known, in windows."""

    def new(guides, **asked):
        made = model.replace(guides=guides, sampler=samplers.create("heun", n_steps=5))
        (result,) = results(made.edit(x, "outpaint", n_results=1, **asked))
        return result[:, :, -4:].mean()

    def fading(params, x, t):
        return log_probs(params, expand(SDE.alpha(t) ** 2, x) * x, t)

    def growing(params, x, t):
        return jnp.mean(expand(SDE.alpha(t) ** 2, x) * x, axis=(1, 2, 3))

    classifier = Classifier(fading, (), 3, weight=10.0)
    discriminator = Discriminator(growing, (), 20.0, 10.0)
    both = new((discriminator, classifier), label=2)
    assert both > new((classifier,), label=2) + 0.05 > new(()) + 0.1


@pytest.mark.thorough
def test_images_that_condition_the_model_are_made_of_what_is_known(x):
    """A super-resolution model sees means over blocks; those in the unknown part are filled."""

    def score(x, t, low_res, low_res_noise):
        mean, alpha, sigma = low_res, expand(SDE.alpha(t), x), expand(SDE.sigma(t), x)
        return -(x - alpha * mean) / ((alpha * 0.01) ** 2 + sigma**2)

    model = pipeline(config(**{"model.low_res_size": 4}), score, sampler=DDIM)
    x = np.full((1, 8, 8, 1), 0.5, np.float32)
    x[:, :, 4:] = -1
    (result,) = results(model.edit(x, "inpaint", n_results=1))
    np.testing.assert_allclose(result, 0.5, atol=0.1)
    (kept,) = results(model.edit(x, "inpaint", n_results=1, content="original"))
    np.testing.assert_allclose(kept, x, atol=0.1)


@pytest.mark.thorough
def test_flows_have_the_class_too(of_classes, x):
    columns = of_classes.edit(x, "reconstruct", label=[0, 1, 2])
    np.testing.assert_allclose(columns["decoded"], x, atol=2e-3)
    between = of_classes.edit(x, "interpolate", label=1, n_results=1)
    assert between["0.50"].shape == (2, 8, 8, 1)


@pytest.mark.thorough
def test_the_known_part_stays_and_the_edge_is_soft(model, x):
    known = np.ones((8, 8), bool)
    known[3:5, 3:5] = False
    columns = model.edit(x, "inpaint", mask=known, n_results=2, mask_grow=1, mask_blur=0.5)
    for result in results(columns):
        changed = (result != x).all(axis=(0, 3))
        assert changed[2:6, 3:5].all()  # grown by a pixel
        assert changed[1, 3]  # the edge
        assert (result == x)[:, 0].all()
        assert (result == x)[:, :, 7].all()
    other = np.stack([known, ~known, known])
    columns = model.edit(x, "inpaint", mask=other, n_results=1)
    assert ((columns["result 1"] == x).all(axis=(3,)) == other).all()


@pytest.mark.thorough
@pytest.mark.parametrize("content", ["original", "fill", "noise"])
def test_inpainting_of_some_strength_starts_from_its_content(model, x, content):
    x = np.linspace(-1, 1, 3).reshape(3, 1, 1, 1) + 0 * x
    options = {"content": content, "noise_level": 0.02, "n_results": 1}
    (result,) = results(model.edit(x, "inpaint", **options))
    np.testing.assert_array_equal(result[:, :, :4], x[:, :, :4])
    away = np.abs(result - x)[:, :, 4:].mean()
    assert 0 < away < 0.05 if content != "noise" else away > 0.5


@pytest.mark.thorough
def test_measurements_are_met(model, x):
    (large,) = results(model.edit(x, "super_resolution", factor=2, n_results=1))
    shrink, blur = measurement.downsampling(2), measurement.blur(0.7)
    np.testing.assert_allclose(shrink(large), shrink(x), atol=1e-3)
    columns = model.edit(x, "deblur", blur=0.7, n_results=1, n_iterations=30, noise_std=0.02)
    np.testing.assert_allclose(columns["given"], blur(x), atol=1e-5)
    np.testing.assert_allclose(blur(columns["result 1"]), blur(x), atol=0.1)
    sharp = model.edit(x, "deblur", blur=0.7, n_results=1, degrade=False, noise_std=0.3)
    np.testing.assert_array_equal(sharp["given"], x)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["pigdm", "replacement"])
def test_other_posterior_samplers_make_it_too(model, x, name):
    assert create("inpaint", posterior=name).method == samplers.posterior.create(name)
    columns = model.edit(x, "super_resolution", n_results=1, posterior=name)
    shrink = measurement.downsampling(2)
    np.testing.assert_allclose(shrink(columns["result 1"]), shrink(x), atol=0.05)


@pytest.mark.thorough
def test_the_frame_is_extended_by_windows(model, x):
    columns = model.edit(x, "outpaint", extend=(0, 6, 2, 4), n_results=2)
    assert list(columns) == ["original", "given", "result 1", "result 2"]
    for result in results(columns):
        assert result.shape == (3, 10, 18, 1)
        np.testing.assert_array_equal(result[:, :8, 4:12], x)
        new = np.concatenate([result[:, :, :4].ravel(), result[:, :, 12:].ravel()])
        assert new.mean() == pytest.approx(0.3, abs=0.15)
        assert new.std() == pytest.approx(0.7, abs=0.15)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("variations", {"strength": 1.5}, "config.edit.strength is 1.5: it must lie in"),
        ("variations", {"strength": float("nan")}, "config.edit.strength is nan"),
        ("inpaint", {"strength": 0.5, "noise_level": 2.0}, "leave one of them out"),
        ("inpaint", {"noise_level": 1e6}, "noise_level is 1e.06: it must be above"),
        ("inpaint", {"content": "blue"}, "config.edit.content 'blue' is unknown"),
        ("variations", {"mask": "left"}, "'mask' is unknown"),
        ("variations", {"mask": np.ones((8, 8), bool)}, "'variations' takes none: leave it out"),
        ("inpaint", {"mask": "right"}, "config.edit.mask 'right' is unknown"),
        ("inpaint", {"mask": "lfet"}, "did you mean 'left'"),
        ("inpaint", {"mask": np.ones((8, 8), bool)}, "leaves nothing to make"),
        ("inpaint", {"mask": np.zeros((8, 8), bool)}, "leaves nothing known"),
        ("inpaint", {"mask": np.full((8, 8), 0.5)}, r"config.edit.mask must be True \(or 1\)"),
        ("inpaint", {"mask_grow": 8}, "leaves nothing known, with its growth"),
        ("inpaint", {"mask": np.ones((8, 6), bool)}, r"config.edit.mask has the shape \(8, 6\)"),
        ("inpaint", {"only_masked": True}, "these are samples in model space"),
        ("inpaint", {"posterior": "dsp"}, "did you mean 'dps'"),
        ("inpaint", {"posterior": "dps", "n_particles": 4}, "option of dps 'n_particles'"),
        (
            "inpaint",
            {"posterior": "twisted_smc"},
            r"config.edit.noise_std is 0, and .* divides by it",
        ),
        ("super_resolution", {"factor": 3}, "config.edit.factor is 3: it must divide the sides"),
        ("outpaint", {"extend": (0, 0, 0, 0)}, "config.edit.extend is"),
        ("outpaint", {"extend": (1, 2)}, "give four numbers of pixels"),
        ("outpaint", {"overlap": 1.0}, "config.edit.overlap is 1.0"),
        ("inpaint", {"prompt": "a cat"}, "prompt is 'a cat', but this model has no such condition"),
        ("inpaint", {"label": 3}, "label is 3, but this model has no such condition"),
        ("inpant", {}, "did you mean 'inpaint'"),
    ],
)
def test_impossible_edits_are_refused(model, x, task, options, message):
    with pytest.raises(ValueError, match=message):
        model.edit(x, task, **options)


def test_a_classifier_needs_the_class_of_images_that_are_not_the_test_set_s(model, x):
    guided = model.replace(guides=(Classifier(log_probs, (), 3),))
    with pytest.raises(ValueError, match="is not known: give"):
        guided.edit(x, "variations")


def test_a_flow_has_one_score(model, x):
    unlike = model.replace(guides=(Discriminator(half_the_square, (), 0.3, 0.1),))
    unlike, options = unlike.replace(sampler=samplers.create("heun")), {"noise_std": 0.1}
    with pytest.raises(ValueError, match="not tell the evaluations of a step apart"):
        unlike.edit(x, "reconstruct")
    with pytest.raises(ValueError, match="not tell the evaluations of a step apart"):
        unlike.edit(x, "inpaint", posterior="twisted_smc", **options)


def test_there_is_nothing_between_one_image(model, x):
    with pytest.raises(ValueError, match=r"1 image, and .* needs at least 2"):
        model.edit(x[:1], "interpolate")


def test_the_strength_depends_on_the_task():
    assert Edit("variations").share == 0.3
    assert Edit("inpaint").share == 1
    assert Edit("impute").method.n_iterations == 1
    assert Edit("inpaint").method.n_iterations == 3
