"""Tests of codecs from configs, and of what does not go with them."""

import pytest

from configs import digits, emoji, points
from experiments.build import pipelines, tasks
from experiments.build.components import codecs
from models.mixing import MixedModel

DENSITIES = {
    "sampling__method": "probability_flow",
    "sampling__log_prob": True,
    "sampling__n_steps": None,
}
ODD = {"data__shape": (7, 8, 1), "data__image_size": 32, "data__num_channels": 3}


def config(latent="lsgm", data=points, **changes):
    made = data.get_config(latent or "mixture")
    with made.ignore_type():
        made.update_from_flattened_dict({n.replace("__", "."): v for n, v in changes.items()})
    return made


def test_the_score_model_is_of_the_latents():
    model = pipelines.untrained(config(latent__channels=3))
    assert isinstance(model.model, MixedModel)
    assert (model.shape, model.diffused_shape) == ((2,), (3,))
    flow = pipelines.untrained(config("indm"))
    assert not isinstance(flow.model, MixedModel)
    assert flow.diffused_shape == (2,)


@pytest.mark.parametrize(
    ("made", "shape"),
    [(digits.get_config("lsgm"), (4, 4, 4)), (emoji.get_config("lsgm"), (8, 8, 4))],
)
def test_latents_of_images_are_smaller(made, shape):
    assert pipelines.untrained(made).diffused_shape == shape


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (config(latent__name="vae"), "config.latent.name 'vae' is unknown"),
        (config(objective__name="denoising"), "set it to 'cross_entropy'"),
        (config("indm", latent__channels=3), "config.latent.channels is 3, but .* no such option"),
        (
            config("", latent__nf=3, objective__name="cross_entropy"),
            "config.latent.nf is 3, but .* no such option",
        ),
        (config(latent__nf=0), "config.latent.nf is 0: it must be at least 1"),
        (config("indm", latent__num_layers=-1), "config.latent.num_layers is -1"),
        (config(latent__ch_mult=(1, 2)), "config.latent.ch_mult .* which is for images"),
        (config(training__init_from="x"), "config.training.init_from is 'x'"),
        (config(data__auto=True), "config.data.auto is True, which is advice"),
        (config(training__continuous=False), "config.training.continuous is False"),
        (
            config(training__sde="subvpsde", training__importance_sampling=True),
            "SubVP has no importance sampling of t in closed form",
        ),
        (config(training__sde="cld"), "CLD has no noise level"),
        (config(training__likelihood_weighting=True), "likelihood_weighting is True, but"),
        (config(**DENSITIES), "gives a bound"),
        (config("lsgm", digits, latent__ch_mult=(1, 1, 1, 1, 1)), "give fewer"),
        (config("lsgm", digits, latent__attn_resolutions=(3,)), "8, 4 pixels high"),
        (config("indm", digits, data__uniform_dequantization=False), "has no bound at the grey"),
        (config(guidance__clip__limit=1.0), "config.guidance.clip.limit is 1.0, which guides"),
        (config("indm", digits, **ODD), "needs even sides"),
        (config("lsgm", digits, image_condition__name="low_res"), "image_condition.name is for"),
        (config("lsgm", digits, data__augment=0.1, model__augment_dim=9), "config.data.augment"),
    ],
)
def test_what_does_not_go_together_is_refused(made, message):
    with pytest.raises(ValueError, match=message):
        pipelines.untrained(made)


def test_other_kinds_of_model_have_no_codec():
    made = digits.get_config("classifier")
    made.latent.name = "lsgm"
    with pytest.raises(ValueError, match=r"config.latent.name is of score models"):
        tasks.task(made)


def test_what_needs_scores_of_noisy_data_is_refused():
    model = pipelines.untrained(config("indm"))
    with pytest.raises(ValueError, match=r"mode detect needs the score of noisy data"):
        model.check_diffuses_data("mode detect")
    assert codecs.codec(points.get_config()) is None
    with pytest.raises(ValueError, match=r"config.data.autoencoder is 'x', which gives latents"):
        codecs.codec(config(data__autoencoder="x"))
