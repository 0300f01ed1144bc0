"""Imports from and exports to the library diffusers itself; skipped where it is not installed."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from configs.default import get_config
from experiments.build import guidance, pipelines
from experiments.runs.folder import flatten
from models import published
from models.published import base
from models.weights import state_dict
from samplers.base import Start
from samplers.noise_levels import leading_time
from samplers.solver import model_at

torch = pytest.importorskip("torch")
library = pytest.importorskip("diffusers")

PLAIN = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
}
DDPM = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
FOURIER = {
    "sample_size": 8,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "time_embedding_type": "fourier",
    "norm_num_groups": None,
    "attention_head_dim": None,
    "mid_block_scale_factor": 2**0.5,
    "center_input_sample": True,
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
    "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
}
SHIFTED = PLAIN | {"resnet_time_scale_shift": "scale_shift"}
RESNET = {"downsample_type": "resnet", "upsample_type": "resnet"}
KINDS = {
    "defaults": PLAIN,
    "ddpm": PLAIN | DDPM,
    "heads": PLAIN | {"attention_head_dim": 12, "time_embedding_dim": 40, "act_fn": "gelu"},
    "scale_shift": SHIFTED | {"act_fn": "mish", "num_class_embeds": 7},
    "inside": SHIFTED | RESNET | {"attn_norm_num_groups": 4, "act_fn": "relu"},
    "learned": PLAIN | {"time_embedding_type": "learned", "num_train_timesteps": 1000},
    "class_times": PLAIN | {"class_embed_type": "timestep", "out_channels": 6},
    "identity": PLAIN | {"class_embed_type": "identity", "add_attention": False},
    "no_middle": PLAIN | {"mid_block_type": None, "in_channels": 1, "out_channels": 1},
    "blocks": PLAIN
    | {
        "down_block_types": ("ResnetDownsampleBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "ResnetUpsampleBlock2D"),
    },
    "fourier": FOURIER,
    "mixed": FOURIER
    | {
        "norm_num_groups": 8,
        "down_block_types": ("AttnSkipDownBlock2D", "DownBlock2D", "AttnSkipDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"),
    },
}


def random_network(change=0.1, **options):
    """A network none of whose parameters has its initial value."""
    torch.manual_seed(0)
    network = library.UNet2DModel(**options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += change * torch.randn_like(parameter)
    return network


def imported(folder):
    source = published.read(folder)
    form, found = published.identify(source)
    config = get_config()
    with config.unlocked():
        config.update_from_flattened_dict(found.assumed | found.fields)
    return found, config, published.params(form, found.arrays, config)


def export(config, params, folder):
    pipelines.untrained(config)
    bare, fields = published.skeleton(config), flatten(config.to_dict())
    form = published.FORMATS["diffusers"]
    folder.mkdir()
    arrays = base.extract(params, form.table(bare)) | form.constants(bare)
    form.write(folder, arrays, form.options(bare, fields), base.About(fields))


def theirs(network, x, labels, classes=None):
    """Their output, channels first."""
    with torch.no_grad():
        classes = None if classes is None else torch.tensor(classes)
        return network(torch.tensor(x), torch.tensor(labels), classes).sample.numpy()


def ours(config, params, x, labels, classes=None):
    network = jax.jit(models.create(config).apply)
    options = {} if classes is None else {"class_labels": jnp.asarray(classes)}
    x, labels = golden.channels_last(x), np.asarray(labels, np.float32)
    return np.moveaxis(np.asarray(network({"params": params}, x, labels, **options)), -1, 1)


def inputs(network):
    """An input, labels and classes of three samples."""
    config, random = network.config, np.random.RandomState(0)
    x = random.standard_normal((3, config.in_channels, 8, 8)).astype("f4")
    fourier = config.time_embedding_type == "fourier"
    labels = np.float32([0.02, 1.0, 30.0]) if fourier else np.array([3, 500, 999])
    if config.class_embed_type == "identity":
        return x, labels, random.standard_normal((3, 64)).astype("f4")
    classed = config.class_embed_type or config.num_class_embeds
    return x, labels, (np.array([1, 6, 2]) if classed else None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_network_gives_the_same_output_and_goes_back(kind, tmp_path):
    network = random_network(**KINDS[kind])
    network.save_pretrained(tmp_path / "theirs")
    _, config, params = imported(tmp_path / "theirs")
    about = inputs(network)
    expected = theirs(network, *about)
    golden.assert_samples_close(ours(config, params, *about), expected, 1e-5)

    export(config, params, tmp_path / "ours")
    again = library.UNet2DModel.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(theirs(again, *about), expected)
    assert published.read(tmp_path / "ours").options["block_out_channels"] == list(
        network.config.block_out_channels
    )
    written = state_dict(published.read(tmp_path / "ours").content)
    for name, array in network.state_dict().items():
        np.testing.assert_array_equal(written[name], array.numpy())


def pipeline(tmp_path, scheduler, **options):
    """Their network and scheduler, and our model of the folder that they are saved in."""
    network = random_network(0.01, **PLAIN | DDPM | options)
    library.DDPMPipeline(network, scheduler).save_pretrained(tmp_path)
    _, config, params = imported(tmp_path)
    made = pipelines.untrained(config)
    score_fn = made.model.score_fn(params)
    for guide in guidance.guides(config, made.sde):
        score_fn = guide.apply(score_fn, guide.params, made.sde, jnp.zeros(1, int))
    return network, config, made, score_fn


def their_samples(network, scheduler, x, noises=None):
    """Their loop with given noise, channels last."""
    x = torch.tensor(np.moveaxis(x, -1, 1))
    draws = iter(() if noises is None else torch.tensor(np.moveaxis(noises, -1, 2)))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        place = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
        patch.setattr(place, lambda *_, **__: next(draws))
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t).sample, t, x).prev_sample
    return np.moveaxis(x.numpy(), 1, -1)


def our_samples(sampler, sde, score_fn, x, first, noises):
    """The sampler's steps with given noise."""
    high, low = (float(sde.noise_level(jnp.float32(t))) for t in (first, sde.t_min))
    levels = sampler.levels(sde, high, low)
    plan = sampler.plan(levels[:-1], levels[1:])
    rows, rest = model_at(sde, score_fn, plan.evaluations), jnp.zeros((0, *x.shape))

    @jax.jit
    def step(k, y, z):
        c = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32)[k], plan.coefficients)
        return sampler.step(rows.row(k), y, c, rest, z)[0]

    y = x / sde.alpha(first)
    for k in range(len(levels) - 1):
        y = step(k, y, noises[k][None])
    last = model_at(sde, score_fn, levels[-1:])
    return sampler.estimate(last, y) if sampler.denoise else sde.alpha(sde.t_min) * y


@pytest.mark.parametrize(
    ("options", "network"),
    [
        ({}, {}),
        ({"variance_type": "fixed_large", "clip_sample": False}, {}),
        ({"variance_type": "learned_range", "clip_sample_range": 2.0}, {"out_channels": 6}),
        ({"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"}, {}),
        ({"prediction_type": "v_prediction", "beta_schedule": "sigmoid", "beta_end": 0.3}, {}),
        ({"trained_betas": np.linspace(0.01, 0.4, 20).tolist()}, {}),
    ],
    ids=str,
)
def test_ddpm_draws_the_same_images_from_the_same_noise(options, network, tmp_path):
    scheduler = library.DDPMScheduler(num_train_timesteps=20, **options)
    scheduler.set_timesteps(20)
    network, _, made, score_fn = pipeline(tmp_path, scheduler, **network)
    noises = np.random.RandomState(1).standard_normal((21, 2, 8, 8, 3)).astype("f4")
    expected = their_samples(network, scheduler, noises[-1], noises)
    result = our_samples(made.sampler, made.sde, score_fn, noises[-1], 1.0, noises)
    golden.assert_samples_close(result, expected, 1e-4)


def test_ddpm_takes_the_same_few_of_many_levels(tmp_path):
    scheduler = library.DDPMScheduler()
    network, _, made, score_fn = pipeline(tmp_path, scheduler)
    scheduler.set_timesteps(10)
    sampler = dataclasses.replace(made.sampler, n_steps=10)
    noises = np.random.RandomState(1).standard_normal((11, 2, 8, 8, 3)).astype("f4")
    expected = their_samples(network, scheduler, noises[-1], noises)
    first = leading_time(made.sde, 10, sampler.denoise)
    result = our_samples(sampler, made.sde, score_fn, noises[-1], first, noises)
    golden.assert_samples_close(result, expected, 1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"timestep_spacing": "trailing"},
        {
            "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
        },
        {"clip_sample": False, "beta_schedule": "scaled_linear"},
        {"set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "sample"},
    ],
    ids=str,
)
def test_ddim_draws_the_same_images_from_the_same_noise(options, tmp_path):
    """In 5 steps: with clipping, theirs has no digit left after 50 if the noise changes by 1e-6."""
    scheduler = library.DDIMScheduler(**options)
    network, _, made, score_fn = pipeline(tmp_path, scheduler)
    x = np.random.RandomState(1).standard_normal((2, 8, 8, 3)).astype("f4")
    sampler = dataclasses.replace(made.sampler, n_steps=5)
    scheduler.set_timesteps(5)
    expected = their_samples(network, scheduler, x)
    first = 1.0
    if sampler.grid == "leading":
        first = leading_time(made.sde, 5, sampler.denoise)
    key, start = jax.random.key(0), Start(x, first)
    draw = jax.jit(lambda: sampler(key, made.sde, score_fn, x.shape, start=start).x)
    # Where alpha is 1e-4, x_0 from a score in float32 has four digits.
    tolerance = 1e-3 if options.get("rescale_betas_zero_snr") else 1e-4
    golden.assert_samples_close(draw(), expected, tolerance)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("DDPM", {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}),
        ("DDPM", {"trained_betas": [0.1, 0.2, 0.3], "variance_type": "fixed_large"}),
        ("DDPM", {"beta_end": 0.03, "clip_sample": False}),
        ("DDIM", {"clip_sample_range": 2.0, "prediction_type": "sample"}),
        ("DDIM", {"timestep_spacing": "leading", "set_alpha_to_one": False, "steps_offset": 1}),
    ],
    ids=str,
)
def test_an_exported_pipeline_has_the_same_scheduler(kind, options, tmp_path):
    scheduler = getattr(library, f"{kind}Scheduler")(**options)
    made, network = getattr(library, f"{kind}Pipeline"), random_network(**PLAIN)
    made(network, scheduler).save_pretrained(tmp_path / "theirs")
    _, config, params = imported(tmp_path / "theirs")
    export(config, params, tmp_path / "ours")
    again = made.from_pretrained(tmp_path / "ours").scheduler
    np.testing.assert_allclose(again.alphas_cumprod, scheduler.alphas_cumprod, rtol=1e-5)
    for name in ("prediction_type", "clip_sample", "timestep_spacing", "steps_offset", *options):
        if name != "trained_betas":
            assert again.config[name] == scheduler.config[name], name
