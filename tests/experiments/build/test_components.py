import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_configs import changed

import samplers
import sde_lib
from configs import cifar10, digits, points
from experiments.build import components, pipelines, tasks
from experiments.build.fields import choices
from experiments.pipeline.edit import Edit


def vp_config():
    """VP of digits by score_sde's conventions, with its sampler."""
    return changed(
        digits.get_config("vp_score_sde"),
        {"sampling.method": "predictor_corrector", "sampling.n_steps": 300},
    )


@pytest.mark.parametrize("module", [digits, points])
def test_every_config_builds(module):
    kinds = {"classifier": "Classifier", "edm_classifier": "Classifier"}
    kinds |= {"lsgm": "JointModel", "indm": "JointModel"}
    kinds |= {"consistency": "Consistency", "meanflow": "MeanFlow"}
    for variant in module.VARIANTS:
        if variant != "discriminator":  # which needs samples of another run
            made = tasks.task(module.get_config(variant))
            assert type(made).__name__ == kinds.get(variant, "ScoreModel")


def test_sde_and_sampler_have_the_config_numbers():
    config = changed(digits.get_config("ve"), {"sampling.method": "predictor_corrector"})
    assert components.sde(config) == sde_lib.VE(0.01, config.model.sigma_max)
    assert components.sde(digits.get_config("subvp")) == sde_lib.SubVP()
    config.sampling.n_steps, config.sampling.snr = 77, 0.1
    config.sampling.corrector, config.sampling.n_steps_each = "langevin", 3
    assert components.sampler(config) == samplers.PredictorCorrector(
        77, snr=0.1, n_corrector_steps=3
    )
    config = changed(digits.get_config("vp_score_sde"), {"sampling.method": "probability_flow"})
    assert isinstance(components.sampler(config), samplers.ProbabilityFlow)
    config = changed(digits.get_config("vp_score_sde"), {"sampling.method": "euler_maruyama"})
    config.sampling.n_steps = 77
    assert components.sampler(config) == samplers.EulerMaruyama(77)
    config.sampling.method, config.sampling.n_steps_each = "annealed_langevin", 3
    assert components.sampler(config) == samplers.AnnealedLangevin(77, 3)


def test_options_of_an_edit_are_those_of_its_task():
    config = digits.get_config("vp_score_sde")
    assert components.edit(config) == Edit()
    config.edit.mask = "centre"
    assert components.edit(config) == Edit(mask="centre")
    config.edit.task = "variations"
    with pytest.raises(ValueError, match=r"mask is 'centre', .* has no such option.*'inpaint'"):
        components.edit(config)
    config = changed(
        digits.get_config("vp_score_sde"), {"edit.task": "interpolate", "edit.n_images": 1}
    )
    with pytest.raises(ValueError, match="n_images is 1: it must be at least 2"):
        components.edit(config)


def test_a_solver_makes_as_many_evaluations_as_it_is_allowed():
    config = digits.get_config("edm")
    for name, nfe in (("euler", 13), ("heun", 13), ("dpmpp_2m", 8)):
        made = components.solver(config, name, nfe)
        assert made.nfe == nfe
        assert made.denoise
    with pytest.raises(ValueError, match=r"heun makes 11 .* and 13 in one more, never 12"):
        components.solver(config, "heun", 12)
    with pytest.raises(ValueError, match="solver 'predictor_corrector' is unknown"):
        components.solver(config, "predictor_corrector", 12)


def check(config):
    """Raises what mode train raises before it compiles anything."""
    tasks.task(config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("training.sde", "vpsd", "did you mean 'vpsde'"),
        ("sampling.method", "predictor_corector", "did you mean 'predictor_corrector'"),
        ("sampling.predictor", "reverse", "predictor 'reverse' is unknown"),
        ("sampling.n_steps", 15, "more than 20 steps"),
        ("model.beta_max", 0.05, "needs 0 < beta_min < beta_max"),
        ("model.ema_rate", 1.0, "must be in"),
        ("model.ema_halflife", -1.0, "ema_halflife is -1.0: it must be 0 or more"),
        ("model.ema_rampup", -0.1, "ema_rampup is -0.1, which does nothing without config.model.e"),
        ("objective.input_perturbation", -0.1, "perturbation is -0.1: it must be at least 0"),
        ("model.label_dropout", 1.5, "label_dropout is 1.5: it must be a probability"),
        ("model.label_dropout", 0.1, "needs config.model.class_conditional=True"),
        ("model.label_confidence", True, "needs config.model.class_conditional=True"),
        ("data.confidence", "folder", "needs config.model.label_confidence=True"),
        ("data.augment", -0.1, "data.augment is -0.1: it must be a probability"),
        ("data.augment", 0.1, "augment_dim is 0: config.data.augment has 9 labels"),
        ("noise_density.name", "lognormal", "did you mean 'log_normal'"),
        ("noise_density.name", "log_normal", "a noise density of its own"),
        ("noise_density.std", 0.5, "'uniform' has no such option"),
        ("weighting.name", "min-snr", "did you mean 'min_snr'"),
        ("weighting.name", "edm", "a weighting of its own"),
        ("weighting.bias", 1.0, "'variance' has no such option"),
        ("optim.lr", 0.0, "must be positive"),
        ("optim.optimizer", "SGD", "'SGD' is unknown"),
        ("optim.schedule", "inverse", "did you mean 'inverse_sqrt'"),
        ("optim.decay_start", 100, "'constant' has no such option"),
        ("training.batch_size", 0, "config.training.batch_size is 0"),
        ("training.continuous", False, "leave it out at n_levels"),
        ("eval.probe", "gausian", "did you mean 'gaussian'"),
        ("eval.rtol", 0.0, "config.eval.rtol is 0.0"),
        ("eval.n_repeats", 0, "config.eval.n_repeats is 0"),
        ("model.scale_by_sigma", True, "VE's convention"),
        ("model.name", "ncsnv2_64", "knows discrete levels only"),
        ("training.sde", "cosin", "did you mean 'cosine'"),
        ("training.sde", "edm", "cannot tell sigmas apart"),
        ("model.text", "bites", "did you mean 'bytes'"),
        ("model.parametrization", "epsilom", "did you mean 'epsilon'"),
        ("model.sigma_data", 0.0, "config.model.sigma_data is 0.0"),
        ("objective.name", "sliced_rv", "did you mean 'sliced_vr'"),
        ("objective.soft_truncation", -1.0, "soft_truncation is -1.0"),
        ("objective.n_projections", 2, "'denoising' has no such option"),
        ("model.learned_schedule", True, "here they are 'denoising' and 'vpsde'"),
        ("objective.name", "vdn", "did you mean 'vdm'"),
        ("objective.name", "vdm", "set config.data.uniform_dequantization=False"),
        ("data.dataset", "digit", "did you mean 'digits'"),
    ],
)
def test_impossible_values_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        check(changed(vp_config(), {field: value}))


def test_the_spread_of_a_density_is_positive():
    weights = {"training.likelihood_weighting": False, "training.importance_sampling": False}
    density = {"noise_density.name": "log_normal", "noise_density.std": 0.0}
    with pytest.raises(ValueError, match=r"std of the noise density is 0.0"):
        check(changed(digits.get_config("vp_score_sde"), weights | density))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.patch_size": 3}, "8 x 8 pixels cannot be cut into patches of .*patch_size = 3"),
        ({"model.patch_size": 0}, "config.model.patch_size is 0: it must be at least 1"),
        ({"model.num_heads": 5}, "hidden_size is 384: it must be a multiple of 5, for num_heads"),
        ({"model.hidden_size": 6}, "hidden_size is 6: it must be a multiple of 4, for 2 sines"),
        ({"training.sde": "vesde"}, "cannot tell sigmas apart"),
        ({}, None),
    ],
    ids=str,
)
def test_transformers_that_do_not_fit_are_refused(values, message):
    config = digits.get_config("vp_score_sde")
    with config.unlocked():
        config.model.update(name="dit", patch_size=2, hidden_size=384, num_heads=6)
    config.update_from_flattened_dict(values)
    if message is None:
        pipelines.untrained(config)
        return
    with pytest.raises(ValueError, match=message):
        pipelines.untrained(config)


def test_augmentations_and_flips_exclude_each_other():
    config = digits.get_config("vp_score_sde")
    config.data.augment, config.model.augment_dim, config.data.random_flip = 0.1, 9, True
    with pytest.raises(ValueError, match="flips images already"):
        check(config)


def test_the_loss_has_the_density_and_the_weighting_of_the_config():
    config = digits.get_config("vp_score_sde")
    config.training.likelihood_weighting = config.training.importance_sampling = False
    config.noise_density.update(name="log_normal", mean=0.3, std=1e-3)
    config.weighting.name, config.model.sigma_data = "edm", 0.8
    sde = components.sde(config)
    loss: jax.stages.Wrapped = jax.jit(
        lambda key, x0: components.loss_of(config, sde)(None)(
            key, sde, lambda x, t: jnp.zeros_like(x), x0
        )
    )
    values, metrics = loss(jax.random.key(0), jnp.zeros((64, 3)))
    np.testing.assert_allclose(sde.log_snr(metrics["t"]), -0.6, atol=0.01)
    weight = 1 + np.exp(0.6) / 0.8**2
    np.testing.assert_allclose(values, 1.5 * weight * metrics["error"], rtol=0.01)


def test_vdm_draws_its_levels_by_the_schedule_in_the_parameters():
    config = digits.get_config("vdm")
    schedule, x = components.learned_schedule(config), jnp.zeros((64, 3))
    start = schedule.init(jax.random.key(0), jnp.zeros(()))["params"]
    early = {**start, "log_height": 5.0 * jnp.arange(32.0)[::-1] / 32}
    sde = components.sde(config)
    loss_of = components.loss_of(config, sde)

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
    sde = components.sde(config)
    loss = components.loss_of(config, sde)(None)
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
    sde, x0 = components.sde(config), jnp.ones((16, 2))

    @jax.jit
    def loss(key):
        made = components.held_out_loss(config, sde)
        return made(key, sde, lambda x, t: jnp.zeros_like(x), x0, stratified=False)[0]

    plain = loss(jax.random.key(0))
    config.objective.soft_truncation = 2.0
    jax.clear_caches()
    np.testing.assert_array_equal(loss(jax.random.key(0)), plain)


@pytest.mark.parametrize(
    ("variant", "continuous", "message"),
    [
        ("ve_ncsnpp", True, "cannot tell sigmas apart"),
        ("ve_ddpm", True, "cannot tell sigmas apart"),
        ("ve_ncsnpp_continuous", False, "takes the logarithm of its labels"),
    ],
)
def test_networks_whose_labels_are_of_another_kind_are_refused(variant, continuous, message):
    config = cifar10.get_config(variant)
    config.training.continuous = continuous
    with pytest.raises(ValueError, match=message):
        pipelines.untrained(config)


@pytest.mark.parametrize(
    ("name", "sde"),
    [
        ("edm", sde_lib.EDM()),
        ("cosine", sde_lib.Cosine()),
        ("sigmoid", sde_lib.Sigmoid()),
        ("linear", sde_lib.Linear()),
        ("log_linear", sde_lib.LogLinear()),
        ("geometric_vp", sde_lib.GeometricVP()),
        ("flow", sde_lib.LinearFlow()),
    ],
)
def test_schedules_build_with_their_published_numbers(name, sde):
    config = digits.get_config("vp_score_sde")
    config.training.sde, config.model.parametrization = name, "edm"
    assert pipelines.untrained(config).sde == sde
    config.training.continuous = config.training.importance_sampling = False
    if name in choices.DISCRETISED:
        assert components.sde(config).log_snrs == tuple(sde.levels(1000))
        return
    with pytest.raises(ValueError, match="has no discrete noise levels"):
        pipelines.untrained(config)


@pytest.mark.parametrize("name", ["hybrid", "vlb"])
@pytest.mark.parametrize("sde", ["cosine", "sigmoid", "chain"])
def test_a_learned_variance_goes_with_every_chain(sde, name):
    fields = {"training.sde": sde, "objective.name": name}
    pipelines.untrained(changed(digits.get_config("vlb"), fields))


def test_the_elbo_s_weighting_belongs_to_a_chain():
    fields = {"training.continuous": False, "training.sde": "cosine", "model.num_scales": 9}
    part = {"weighting.name": "elbo", "training.likelihood_weighting": False}
    config = changed(digits.get_config("vp_score_sde"), part | fields)
    config.training.importance_sampling = False
    sde = components.sde(config)
    expected = sde_lib.variational.elbo_weighting(sde.log_snrs, "posterior")
    config.weighting.variance = "posterior"
    weighting, levels = components.weighting(config, sde), jnp.asarray(sde.log_snrs, float)
    np.testing.assert_array_equal(weighting(levels), expected(levels))
    config.training.continuous, config.model.num_scales = True, 1000
    with pytest.raises(ValueError, match=r"is of a chain of noise levels: .*continuous=False"):
        components.weighting(config, components.sde(config))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("edm", {"log_labels": True}, "given logarithms .* set config.model.log_labels=False"),
        ("edm_ve", {}, "given logarithms .* set config.model.log_labels=False"),
        ("edm_vp", {"log_labels": False}, "given times .* set config.model.log_labels=True"),
        ("edm_iddpm", {}, "set config.model.embedding_type='positional'"),
        ("edm", {"embedding_type": "positional", "scale_by_sigma": True}, "set it to False"),
        ("edm_ve", {"name": "ncsnv2_64"}, "parametrization='score_sde'"),
        ("edm", {"log_labels": False}, None),
        ("edm_vp", {}, None),
        ("edm_iddpm", {"embedding_type": "positional"}, None),
    ],
)
def test_labels_that_a_network_takes_the_logarithm_of_are_positive(name, changes, message):
    config = digits.get_config("ve")
    config.model.update(parametrization=name, scale_by_sigma=False)
    config.model.update(changes)
    sde = components.sde(config)
    if message is None:
        components.noise_model(config, sde, (8, 8, 1))
        return
    with pytest.raises(ValueError, match=message):
        components.noise_model(config, sde, (8, 8, 1))


def langevin_config():
    config = vp_config()
    config.training.sde = "cld"
    config.training.likelihood_weighting = config.training.importance_sampling = False
    return config


def test_langevin_diffusion_builds_with_its_numbers_and_twice_the_channels():
    config = langevin_config()
    config.model.cld_mass = 0.5
    assert components.sde(config) == sde_lib.CLD(4.0, 0.5, 0.04)
    assert components.sde(config).state_shape((1, 8, 8, 1)) == (1, 8, 8, 2)
    inputs = jax.eval_shape(tasks.task(config).init, jax.random.key(0))["Conv_0"]["kernel"]
    assert inputs.shape[2] == 2
    for method in ("predictor_corrector", "euler_maruyama", "probability_flow"):
        pipelines.untrained(changed(config, {"sampling.method": method}))
    config.sampling.method, config.sampling.grid = "symmetric_splitting", "quadratic"
    pipelines.untrained(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling.method": "heun"}, "no noise level"),
        ({"sampling.method": "dpm_adaptive"}, "no noise level"),
        ({"sampling.method": "adaptive_sde"}, "no noise level"),
        ({"sampling.method": "annealed_langevin"}, "no noise level"),
        ({"sampling.predictor": "ancestral_sampling"}, "predictor 'euler_maruyama'"),
        ({"sampling.corrector": "langevin"}, "no corrector"),
        ({"training.continuous": False}, "no discrete noise levels"),
        ({"noise_density.name": "log_normal"}, "train at t uniform"),
        ({"weighting.name": "edm"}, "train at t uniform"),
        (
            {"training.likelihood_weighting": True, "training.importance_sampling": True},
            "without importance_sampling",
        ),
        ({"model.parametrization": "edm"}, "parametrization 'score_sde', 'epsilon' or 'score'"),
        ({"model.parametrization": "v"}, "parametrization 'score_sde', 'epsilon' or 'score'"),
    ],
    ids=str,
)
def test_options_that_need_a_noise_level_are_refused_for_langevin_diffusion(changes, message):
    with pytest.raises(ValueError, match=message):
        pipelines.untrained(changed(langevin_config(), changes))


def test_splitting_is_a_sampler_of_langevin_diffusion():
    with pytest.raises(ValueError, match="a sampler of CLD"):
        pipelines.untrained(
            changed(digits.get_config("vp_score_sde"), {"sampling.method": "symmetric_splitting"})
        )


def test_a_network_divides_by_sigma_unless_the_config_says_otherwise():
    config = digits.get_config("ve")
    del config.model.scale_by_sigma
    pipelines.untrained(config)
    config = digits.get_config("vp_score_sde")
    del config.model.scale_by_sigma
    with pytest.raises(ValueError, match="scale_by_sigma makes the output a score"):
        pipelines.untrained(config)


def test_discrete_training_has_the_published_levels():
    config = digits.get_config("vp_score_sde")
    config.training.continuous = False
    ddpm = sde_lib.from_betas(np.linspace(0.1, 20, 1000) / 1000)
    levels = components.sde(config).levels(1000)
    np.testing.assert_allclose(levels, ddpm.levels(1000), rtol=1e-9)
    config = digits.get_config("ve")
    config.training.continuous = False
    model = config.model
    assert components.sde(config) == sde_lib.VE(model.sigma_min or 0.01, model.sigma_max)
    assert components.n_levels(config) == model.num_scales


CHAIN = {"training.sde": "chain", "training.continuous": False, "model.num_scales": 30}


def test_a_chain_has_the_betas_of_its_schedule():
    config = changed(digits.get_config("vp_score_sde"), CHAIN)
    assert components.sde(config) == sde_lib.chain(30)
    config = changed(config, {"model.beta_schedule": "cosine", "model.zero_terminal_snr": True})
    assert components.sde(config) == sde_lib.chain(30, "cosine", zero_terminal_snr=True)
    model = components.noise_model(config, components.sde(config), (8, 8, 1))
    t = np.arange(30) / np.float32(29)
    np.testing.assert_allclose(model.preconditioning.label(t), np.arange(30), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.continuous": True}, "'chain' has config.model.num_scales noise levels"),
        ({"model.beta_schedule": "cosin"}, "did you mean 'cosine'"),
        ({"model.beta_schedule": "cosine", "model.beta_end": 0.1}, "'cosine' has no such option"),
        ({"model.betas": (0.1,) * 30}, "'linear' has no such option"),
        ({"model.beta_max": 10.0}, "'chain' has no such option"),
        ({"training.sde": "vpsde", "model.beta_end": 0.1}, "'vpsde' has no such option"),
    ],
)
def test_options_of_another_chain_are_refused(changes, message):
    config = digits.get_config("vp_score_sde")
    config.update_from_flattened_dict(CHAIN | changes)
    with pytest.raises(ValueError, match=message):
        components.sde(config)


def learned(changes):
    config = digits.get_config("vlb")
    config.model.update(nf=4, ch_mult=(1,), attn_resolutions=(), num_scales=30)
    config.sampling.n_steps, config.training.batch_size = 30, 8
    return changed(config, changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.sde": "chain", "model.beta_schedule": "cosine"}, None),
        ({"training.continuous": True}, "the levels of DDPM's chain"),
        ({"training.sde": "vesde"}, "the levels of DDPM's chain"),
        ({"objective.name": "denoising"}, "by 'hybrid' or 'vlb', and by these alone"),
        ({"model.learned_variance": False}, "by 'hybrid' or 'vlb', and by these alone"),
        ({"training.reduce_mean": True}, "reduce_mean is True, .* 'hybrid' has no such option"),
        ({"objective.vlb_weight": -1.0}, "vlb_weight is -1.0"),
        ({"objective.loss_history": -1}, "config.objective.loss_history is -1"),
        ({"objective.loss_history": 2, "training.n_microbatches": 2}, "n_microbatches=1"),
        ({}, None),
    ],
    ids=str,
)
def test_options_that_do_not_go_with_a_learned_variance_are_refused(changes, message):
    if message is None:
        check(learned(changes))
        return
    with pytest.raises(ValueError, match=message):
        check(learned(changes))


def test_a_history_and_a_learned_variance_need_their_objective():
    config = changed(digits.get_config("vp_score_sde"), {"objective.loss_history": 2})
    with pytest.raises(ValueError, match=r"loss_history is 2, .* \('hybrid', 'vlb'\)"):
        check(config)
    config = learned({})
    config.sampling.method = "ddim"
    with pytest.raises(ValueError, match=r"variance is 'learned', .* 'ddim' has no such option"):
        check(config)
    config = digits.get_config("vp_score_sde")
    config.sampling.method, config.sampling.variance = "ddpm", "learned"
    with pytest.raises(ValueError, match="needs a model trained with config"):
        check(config)


def test_samples_have_the_shape_of_the_data():
    assert pipelines.untrained(digits.get_config("vp_score_sde")).shape == (8, 8, 1)
    assert pipelines.untrained(points.get_config()).shape == (2,)


def test_log_densities_are_asked_for_by_one_field():
    """The last step to the estimate is left out: it would change the samples."""
    config = changed(digits.get_config("ve"), {"sampling.method": "probability_flow"})
    config.sampling.n_steps = None
    assert components.sampler(config).denoise
    config.sampling.log_prob, config.sampling.probe = True, "rademacher"
    assert components.sampler(config) == samplers.ProbabilityFlow(log_prob=True, probe="rademacher")
    config.sampling.noise_removal = True
    with pytest.raises(ValueError, match="denoise changes them: leave out one"):
        components.sampler(config)
