import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers
import sde_lib
from configs import cifar10, digits, points
from experiments import build


def test_every_config_builds():
    for module in (digits, points):
        for variant in module.VARIANTS:
            build.check(module.get_config(variant))


def test_sde_and_sampler_have_the_config_numbers():
    config = digits.get_config("ve")
    assert build.make_sde(config) == sde_lib.VE(0.01, config.model.sigma_max)
    assert build.make_sde(digits.get_config("subvp")) == sde_lib.SubVP()
    config.sampling.n_steps, config.sampling.snr = 77, 0.1
    config.sampling.corrector, config.sampling.n_steps_each = "langevin", 3
    assert build.make_sampler(config) == samplers.PredictorCorrector(
        77, snr=0.1, n_corrector_steps=3
    )
    config.sampling.method = "probability_flow"
    assert isinstance(build.make_sampler(config), samplers.ProbabilityFlow)
    config.sampling.method = "euler_maruyama"
    assert build.make_sampler(config) == samplers.EulerMaruyama(77)
    config.sampling.method = "annealed_langevin"
    assert build.make_sampler(config) == samplers.AnnealedLangevin(77, 3)


def test_optimizer_warms_up_and_clips():
    config = digits.get_config()
    config.optim.warmup, config.optim.lr, config.optim.grad_clip = 10, 1.0, 1.0
    optimizer = build.make_optimizer(config)
    params = {"w": jnp.zeros(3)}
    state = optimizer.init(params)
    lengths = []
    for _ in range(12):
        updates, state = optimizer.update({"w": jnp.full(3, 1e4)}, state, params)
        lengths.append(float(jnp.abs(updates["w"]).max()))
    assert lengths[0] == 0
    assert lengths[5] == pytest.approx(0.5, rel=1e-3)
    assert lengths[11] == pytest.approx(1.0, rel=1e-3)


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
        ("model.ema_rampup", -0.1, "ema_rampup is -0.1: it must be 0 or more"),
        ("training.input_perturbation", -0.1, "input_perturbation is -0.1: it must be at least 0"),
        ("model.label_dropout", 1.5, "label_dropout is 1.5: it must be a probability"),
        ("model.label_dropout", 0.1, "needs config.model.class_conditional=True"),
        ("model.label_confidence", True, "needs config.model.class_conditional=True"),
        ("data.confidence", "folder", "needs config.model.label_confidence=True"),
        ("data.augment", -0.1, "data.augment is -0.1: it must be a probability"),
        ("data.augment", 0.1, "augment_dim is 0: config.data.augment has 9 labels"),
        ("training.noise_density", "lognormal", "did you mean 'log_normal'"),
        ("training.noise_density", "log_normal", "a noise density of its own"),
        ("training.noise_std", 0.0, "std of the noise density is 0.0"),
        ("training.weighting", "min-snr", "did you mean 'min_snr'"),
        ("training.weighting", "edm", "a weighting of its own"),
        ("optim.lr", 0.0, "must be positive"),
        ("optim.optimizer", "SGD", "'SGD' is unknown"),
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
        ("training.objective", "sliced_rv", "did you mean 'sliced_vr'"),
        ("training.soft_truncation", -1.0, "soft_truncation is -1.0"),
        ("model.learned_schedule", True, "here they are 'denoising' and 'vpsde'"),
        ("training.objective", "vdn", "did you mean 'vdm'"),
        ("training.objective", "vdm", "set config.data.uniform_dequantization=False"),
    ],
)
def test_impossible_values_are_refused(field, value, message):
    config = digits.get_config()
    section, name = field.split(".")
    config[section][name] = value
    with pytest.raises(ValueError, match=message):
        build.check(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.patch_size": 3}, "8 x 8 pixels cannot be cut into patches of .*patch_size = 3"),
        ({"model.patch_size": 0}, "config.model.patch_size is 0: it must be at least 1"),
        ({"model.num_heads": 5}, "hidden_size is 384: it must be a multiple of 5, for num_heads"),
        ({"model.hidden_size": 6}, "hidden_size is 6: it must be a multiple of 4, for 2 sines"),
        ({"training.sde": "vesde"}, "cannot tell sigmas apart"),
    ],
    ids=str,
)
def test_transformers_that_do_not_fit_are_refused(values, message):
    config = digits.get_config()
    with config.unlocked():
        config.model.update(name="dit", patch_size=2, hidden_size=384, num_heads=6)
    build.check(config)
    config.update_from_flattened_dict(values)
    with pytest.raises(ValueError, match=message):
        build.check(config)


def test_augmentations_and_flips_are_one_too_many():
    config = digits.get_config()
    config.data.augment, config.model.augment_dim, config.data.random_flip = 0.1, 9, True
    with pytest.raises(ValueError, match="flips images already"):
        build.check(config)


def test_the_loss_has_the_density_and_the_weighting_of_the_config():
    config = digits.get_config()
    training = config.training
    training.likelihood_weighting = training.importance_sampling = False
    training.noise_density, training.noise_mean, training.noise_std = "log_normal", 0.3, 1e-3
    training.weighting, config.model.sigma_data = "edm", 0.8
    loss, sde = build.make_loss(config), build.make_sde(config)
    x0 = jnp.zeros((64, 3))
    values, metrics = loss(jax.random.key(0), sde, lambda x, t: jnp.zeros_like(x), x0)
    np.testing.assert_allclose(sde.log_snr(metrics["t"]), -0.6, atol=0.01)
    weight = 1 + np.exp(0.6) / 0.8**2
    np.testing.assert_allclose(values, 1.5 * weight * metrics["error"], rtol=0.01)


def test_a_learned_schedule_s_gradient_is_clipped_on_its_own():
    params = {"Conv_0": jnp.ones(3), "schedule": jnp.ones(2)}
    grads = {"Conv_0": jnp.array([3e3, 4e3, 0.0]), "schedule": jnp.full(2, 1e6)}
    config = digits.get_config("vdm")
    config.optim.warmup, config.optim.eps = 0, 1.0
    optimizer = build.make_optimizer(config)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    clipped = np.array([0.6, 0.8, 0.0])
    np.testing.assert_allclose(updates["Conv_0"], -2e-3 * clipped / (1 + clipped), rtol=1e-5)
    np.testing.assert_allclose(updates["schedule"], -2e-3 * 0.5**0.5 / (1 + 0.5**0.5), rtol=1e-5)


def test_vdm_draws_its_levels_by_the_schedule_in_the_parameters():
    config = digits.get_config("vdm")
    schedule, x = build.make_schedule(config), jnp.zeros((64, 3))
    start = schedule.init(jax.random.key(0), jnp.zeros(()))["params"]
    early = {**start, "log_height": 5.0 * jnp.arange(32.0)[::-1] / 32}
    args = jax.random.key(0), build.make_sde(config), lambda x, t: jnp.zeros_like(x), x
    t = {
        name: build.make_loss(config, params=params)(*args)[1]["t"]
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
    training, key, x0 = config.training, jax.random.key(0), jnp.ones((8, 2))
    training.objective, training.n_projections = name, 3
    training.stratified, training.soft_truncation = False, 2.0
    sde, loss = build.make_sde(config), build.make_loss(config)
    ours, _ = jax.jit(lambda x0: loss(key, sde, lambda x, t: -(x**3), x0))(x0)
    options = options | {"soft_truncation": 2.0}
    theirs, _ = jax.jit(lambda x0: objective(key, sde, lambda x, t: -(x**3), x0, **options))(x0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


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
        build.check(config)


@pytest.mark.parametrize(
    ("name", "sde"),
    [
        ("edm", sde_lib.EDM()),
        ("cosine", sde_lib.Cosine()),
        ("sigmoid", sde_lib.Sigmoid()),
        ("linear", sde_lib.Linear()),
        ("log_linear", sde_lib.LogLinear()),
        ("flow", sde_lib.LinearFlow()),
    ],
)
def test_schedules_build_with_their_published_numbers(name, sde):
    config = digits.get_config()
    config.training.sde, config.model.parametrization = name, "edm"
    build.check(config)
    assert build.make_sde(config) == sde
    config.training.continuous = config.training.importance_sampling = False
    with pytest.raises(ValueError, match="has no discrete noise levels"):
        build.check(config)


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
    if message is None:
        build.check(config)
    else:
        with pytest.raises(ValueError, match=message):
            build.check(config)


def langevin_config(module):
    config = module.get_config()
    config.training.sde = "cld"
    config.training.likelihood_weighting = config.training.importance_sampling = False
    return config


def test_langevin_diffusion_builds_with_its_numbers_and_twice_the_channels():
    config = langevin_config(digits)
    config.model.cld_mass = 0.5
    assert build.make_sde(config) == sde_lib.CLD(4.0, 0.5, 0.04)
    assert build.dummy_inputs(config)[0].shape == (1, 8, 8, 2)
    assert build.dummy_inputs(langevin_config(points))[0].shape == (1, 4)
    for method in ("predictor_corrector", "euler_maruyama", "probability_flow"):
        config.sampling.method = method
        build.check(config)
    config.sampling.method, config.sampling.grid = "symmetric_splitting", "quadratic"
    build.check(config)


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
        ({"training.noise_density": "log_normal"}, "train at t uniform"),
        ({"training.weighting": "edm"}, "train at t uniform"),
        (
            {"training.likelihood_weighting": True, "training.importance_sampling": True},
            "without importance_sampling",
        ),
        ({"model.parametrization": "edm"}, "parametrization 'score_sde', 'epsilon' or 'score'"),
        ({"model.parametrization": "v"}, "parametrization 'score_sde', 'epsilon' or 'score'"),
    ],
)
def test_what_needs_a_noise_level_is_refused_of_langevin_diffusion(changes, message):
    config = langevin_config(digits)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        build.check(config)


def test_splitting_is_a_sampler_of_langevin_diffusion():
    config = digits.get_config()
    config.sampling.method = "symmetric_splitting"
    with pytest.raises(ValueError, match="a sampler of CLD"):
        build.check(config)


def test_a_network_divides_by_sigma_unless_told_not_to():
    config = digits.get_config("ve")
    del config.model.scale_by_sigma
    build.check(config)
    config.training.sde = "vpsde"
    with pytest.raises(ValueError, match="scale_by_sigma makes the output a score"):
        build.check(config)


def test_discrete_training_has_the_published_levels():
    config = digits.get_config()
    config.training.continuous = False
    ddpm = sde_lib.from_betas(np.linspace(0.1, 20, 1000) / 1000)
    np.testing.assert_allclose(build.make_sde(config).levels(1000), ddpm.levels(1000), rtol=1e-9)
    config.training.sde = "vesde"
    assert build.make_sde(config) == sde_lib.VE(config.model.sigma_min, config.model.sigma_max)
    config.training.sde = "subvpsde"
    with pytest.raises(ValueError, match="SubVP has no discrete noise levels"):
        build.make_sde(config)


def test_dummy_inputs_have_the_data_shape():
    assert build.dummy_inputs(digits.get_config())[0].shape == (1, 8, 8, 1)
    assert build.dummy_inputs(points.get_config())[0].shape == (1, 2)
    assert jax.devices()
