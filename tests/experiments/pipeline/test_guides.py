import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discriminators import config_of, model_config, save_run, save_samples

from configs import digits
from experiments import build
from experiments.commands import edit, generate, train
from experiments.pipeline import guides, sample
from experiments.runs import parts
from experiments.training import state


@pytest.fixture
def config(monkeypatch):
    """A discriminator whose gradient is x, of any folder."""
    result = model_config()
    monkeypatch.setattr(guides, "load_discriminator", lambda *_: (half_the_square, None))
    result.sampling.discriminator = "anywhere"
    return result


def half_the_square(params, x, t):
    return 0.5 * jnp.sum(x**2, axis=1)


@pytest.mark.parametrize(("last", "first"), [(False, 6 / 2 + 0.7), (True, (6 + 0.7) / 2)])
def test_the_noise_is_scaled_before_or_after_guidance(config, last, first):
    """A score of 6 x over b = 2, and a gradient of x, of weight 0.7 in the first evaluation."""
    config.sampling.eps_scale, config.sampling.eps_scale_guided = 2.0, last
    config.sampling.dg_weight_1st_order = 0.7
    guide, params = guides.load(config, build.make_sde(config), {})
    x, t = jnp.ones((3, 2)), jnp.array([0.2, 0.5, 0.9])
    scores = guide(lambda x, t: 6 * x, params, jnp.arange(3))
    for score_fn, expected in zip(scores, (first, 6 / 2), strict=True):
        np.testing.assert_allclose(score_fn(x, t), expected * x, rtol=1e-6)


def test_nothing_is_asked_for_and_nothing_changes():
    config = model_config()
    guide, params = guides.load(config, build.make_sde(config), {})

    def score_fn(x, t):
        return x

    assert guide(score_fn, params, jnp.arange(3)) is score_fn
    assert not jax.tree.leaves(params)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eps_scale": 0.0}, "config.sampling.eps_scale is 0.0: it must be positive"),
        ({"eps_scale_slope": -2.0}, "eps_scale \\+ 1 eps_scale_slope is -1.0"),
        ({"dg_weight_1st_order": -1.0}, "dg_weight_1st_order is -1.0: it must be at least 0"),
        ({"dg_weight_2nd_order": float("inf")}, "dg_weight_2nd_order is inf: it must be"),
        ({"guidance_weight": float("nan")}, "guidance_weight is nan: it must be"),
        ({"time_shift_window": -0.1}, "time_shift_window is -0.1"),
        ({"dg_sigma_min": 200.0}, "sigma_min is 200: it must be below sigma_max"),
        ({"discriminator": "", "dg_boost": True}, "dg_boost is True, which does nothing without"),
        ({"discriminator": "", "dg_weight_1st_order": 2.0}, "1st_order is 2.0, which does nothing"),
        ({"time_shift_cutoff": 0.5}, "cutoff is 0.5, which does nothing without .*_window"),
    ],
)
def test_what_no_guide_can_do_is_refused(config, values, message):
    guides.check(config)
    config.sampling.update(values)
    with pytest.raises(ValueError, match=message):
        guides.check(config)


def test_no_time_shift_where_there_is_no_noise_level():
    config = digits.get_config()
    config.training.sde, config.sampling.time_shift_window = "cld", 0.1
    with pytest.raises(ValueError, match=r"noise level, which .* has not"):
        guides.check(config)


def test_a_discriminator_guides_no_model_with_classes(config):
    config.model.class_conditional = True
    with pytest.raises(ValueError, match="knows data alone, but the model is told more"):
        guides.check(config)


@pytest.mark.parametrize("method", ["predictor_corrector", "dpm_fast"])
def test_other_samplers_take_one_weight(config, method):
    config.sampling.update(method=method, n_steps=50)
    with pytest.raises(ValueError, match=f"'{method}' does not tell the first evaluation of a"):
        guides.check_sampler(config)
    config.sampling.dg_weight_2nd_order = 1.0
    guides.check_sampler(config)


def test_folders_of_something_else_are_refused(tmp_path):
    config, sde = model_config(), build.make_sde(model_config())
    params = save_run(config, tmp_path)
    config.sampling.discriminator = str(tmp_path)
    with pytest.raises(ValueError, match="holds the model 'mlp': give the folder of a trained"):
        guides.load(config, sde, params)
    save_samples(tmp_path, model=parts.digest(params))
    theirs, folder = config_of(tmp_path), tmp_path / "discriminator"
    train.workdirs.claim(theirs, folder)
    train.discriminator.claim(theirs, train.load_data(theirs), folder)
    config.sampling.discriminator, config.sampling.classifier = "", str(folder)
    with pytest.raises(ValueError, match="holds the model 'discriminator': that is no classifier"):
        guides.load(config, sde, params)
    config.sampling.discriminator, config.sampling.classifier = str(folder), ""
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    with pytest.raises(ValueError, match=r"be guided is .*, another or at another step"):
        guides.load(config, sde, other)
    (folder / "generated.json").rename(tmp_path / "lost.json")
    with pytest.raises(ValueError, match="knows samples of the model none"):
        guides.load(config, sde, params)
    config.data.centered = False
    with pytest.raises(ValueError, match="the range of data of the discriminator"):
        guides.load(config, sde, params)
    config.data.centered, config.training.sde = True, "vesde"
    with pytest.raises(ValueError, match="the SDE of the discriminator"):
        guides.load(config, build.make_sde(config), params)


def test_edits_are_not_guided():
    config = digits.get_config()
    config.sampling.discriminator = "anywhere"
    with pytest.raises(ValueError, match="discriminator guides samples: leave it out of mode edit"):
        edit.check(config)


@pytest.mark.slow
def test_a_discriminator_of_samples_makes_them_more_like_the_data(tmp_path):
    """generate, train and sample: of a model that never moves a sample, of too wide a start."""
    config = model_config()
    config.sampling.n_samples = config.sampling.batch_size = 10_000
    config.sampling.n_steps, config.sampling.sigma_max = 8, 2.0
    save_run(config, tmp_path)
    generate.run(config, tmp_path)
    theirs = config_of(tmp_path)
    theirs.training.n_iters, theirs.training.batch_size, theirs.optim.lr = 300, 512, 1e-2
    train.run(theirs, tmp_path / "discriminator")
    model, params, _ = state.load(config, tmp_path)
    plain, _ = sample.draw(config, model, params, 1000)
    config.sampling.discriminator = str(tmp_path / "discriminator")
    guides.check(config)
    guided, _ = sample.draw(config, model, params, 1000)
    assert plain.std() == pytest.approx(2, rel=0.1)
    assert guided.std() < 1.6  # that of the data is 0.9
