import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_configs import changed

import sde_lib
from configs import digits, points
from experiments.build import tasks
from experiments.build.components import diffusion, objectives


def test_the_spread_of_a_density_is_positive():
    weights = {"training.likelihood_weighting": False, "training.importance_sampling": False}
    density = {"noise_density.name": "log_normal", "noise_density.std": 0.0}
    with pytest.raises(ValueError, match=r"std of the noise density is 0.0"):
        tasks.task(changed(digits.get_config("vp_score_sde"), weights | density))


def test_the_loss_has_the_density_and_the_weighting_of_the_config():
    config = digits.get_config("vp_score_sde")
    config.training.likelihood_weighting = config.training.importance_sampling = False
    config.noise_density.update(name="log_normal", mean=0.3, std=1e-3)
    config.weighting.name, config.model.sigma_data = "edm", 0.8
    sde = diffusion.sde(config)
    loss: jax.stages.Wrapped = jax.jit(
        lambda key, x0: objectives.loss_of(config, sde)(None)(
            key, sde, lambda x, t: jnp.zeros_like(x), x0
        )
    )
    values, metrics = loss(jax.random.key(0), jnp.zeros((64, 3)))
    np.testing.assert_allclose(sde.log_snr(metrics["t"]), -0.6, atol=0.01)
    weight = 1 + np.exp(0.6) / 0.8**2
    np.testing.assert_allclose(values, 1.5 * weight * metrics["error"], rtol=0.01)


def test_vdm_draws_its_levels_by_the_schedule_in_the_parameters():
    config = digits.get_config("vdm")
    schedule, x = diffusion.learned_schedule(config), jnp.zeros((64, 3))
    start = schedule.init(jax.random.key(0), jnp.zeros(()))["params"]
    early = {**start, "log_height": 5.0 * jnp.arange(32.0)[::-1] / 32}
    sde = diffusion.sde(config)
    loss_of = objectives.loss_of(config, sde)

    @jax.jit
    def times(params):
        loss = loss_of(params)
        return loss(jax.random.key(0), sde, lambda x, t: jnp.zeros_like(x), x)[1]["t"]

    t = {
        name: times(params)
        for name, params in (
            ("linear", None),
            ("start", {"schedule": start}),
            ("early", {"schedule": early}),
        )
    }
    np.testing.assert_allclose(np.sort(t["linear"]), (np.arange(64) + 0.5) / 64, atol=0.5 / 64)
    np.testing.assert_allclose(t["start"], t["linear"], atol=0.05)
    assert np.median(t["early"]) > 0.8


@pytest.mark.parametrize(
    ("name", "objective", "options"),
    [
        ("explicit", sde_lib.explicit_score_matching, {}),
        ("sliced", sde_lib.sliced_score_matching, {"n_projections": 3}),
        (
            "sliced_vr",
            sde_lib.sliced_score_matching,
            {"n_projections": 3, "variance_reduction": True},
        ),
    ],
)
def test_the_objective_of_the_config_has_its_options(name, objective, options):
    config = points.get_config()
    key, x0 = jax.random.key(0), jnp.ones((8, 2))
    config.objective.update(name=name, stratified=False, soft_truncation=2.0)
    if "n_projections" in options:
        config.objective.n_projections = 3
    sde = diffusion.sde(config)
    loss = objectives.loss_of(config, sde)(None)
    options = options | {"soft_truncation": 2.0}

    @jax.jit
    def both(x0):
        score_fn = lambda x, t: -(x**3)  # noqa: E731
        return loss(key, sde, score_fn, x0)[0], objective(key, sde, score_fn, x0, **options)[0]

    ours, theirs = both(x0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_held_out_data_are_not_truncated():
    """By one least time for all: their loss is the same at any exponent."""
    config = points.get_config()
    sde, x0 = diffusion.sde(config), jnp.ones((16, 2))

    @jax.jit
    def loss(key):
        made = objectives.held_out_loss(config, sde)
        return made(key, sde, lambda x, t: jnp.zeros_like(x), x0, stratified=False)[0]

    plain = loss(jax.random.key(0))
    config.objective.soft_truncation = 2.0
    jax.clear_caches()
    np.testing.assert_array_equal(loss(jax.random.key(0)), plain)


def test_the_elbo_s_weighting_belongs_to_a_chain():
    fields = {"training.continuous": False, "training.sde": "cosine", "model.num_scales": 9}
    part = {"weighting.name": "elbo", "training.likelihood_weighting": False}
    config = changed(digits.get_config("vp_score_sde"), part | fields)
    config.training.importance_sampling = False
    sde = diffusion.sde(config)
    expected = sde_lib.variational.elbo_weighting(sde.log_snrs, "posterior")
    config.weighting.variance = "posterior"
    weighting, levels = objectives.weighting(config, sde), jnp.asarray(sde.log_snrs, float)
    np.testing.assert_array_equal(weighting(levels), expected(levels))
    config.training.continuous, config.model.num_scales = True, 1000
    with pytest.raises(ValueError, match=r"is of a chain of noise levels: .*continuous=False"):
        objectives.weighting(config, diffusion.sde(config))


def learned(changes):
    config = digits.get_config("vlb")
    config.model.update(nf=4, ch_mult=(1,), attn_resolutions=(), num_scales=30)
    config.sampling.n_steps, config.training.batch_size = 30, 8
    return changed(config, changes)


def test_a_history_and_a_learned_variance_need_their_objective():
    config = changed(digits.get_config("vp_score_sde"), {"objective.loss_history": 2})
    with pytest.raises(ValueError, match=r"loss_history is 2, .* \('hybrid', 'vlb'\)"):
        tasks.task(config)
    config = learned({})
    config.sampling.method = "ddim"
    with pytest.raises(ValueError, match=r"variance is 'learned', .* 'ddim' has no such option"):
        tasks.task(config)
    config = digits.get_config("vp_score_sde")
    config.sampling.method, config.sampling.variance = "ddpm", "learned"
    with pytest.raises(ValueError, match="needs a model trained with config"):
        tasks.task(config)
