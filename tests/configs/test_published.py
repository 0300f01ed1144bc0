"""The published experiments: cifar10, celeba, lsun, celebahq, ffhq, afhq, imagenet64 and 512."""

import functools

import guided_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import samplers
import sde_lib
from configs import afhq, celeba, celebahq, cifar10, ffhq, imagenet64, imagenet512, lsun
from experiments.build import frozen, pipelines, related, restored, tasks
from experiments.build.components import diffusion, objectives, optimization, sampling, specs
from experiments.build.fields import configs
from experiments.studies import ablation
from experiments.training.state import abstract_state, init_state
from experiments.training.step import make_train_step
from models import published
from models.published.nvidia.edm2 import LATENTS
from models.published.openai.cards import DIFFUSION

# Read from score_sde's files one by one. The columns are a name in SAMPLERS, FIELDS ("-" where one
# does not matter), and the number of parameters.
SAMPLERS = {
    "ald": ("none", "ald"),
    "pc": ("reverse_diffusion", "langevin"),
    "reverse": ("reverse_diffusion", "none"),
    "ancestral": ("ancestral_sampling", "none"),
    "euler": ("euler_maruyama", "none"),
}
FIELDS = (
    "sampling.n_steps_each",
    "sampling.snr",
    "model.sigma_max",
    "model.num_scales",
    "model.ema_rate",
    "training.n_iters",
    "training.batch_size",
    "optim.lr",
)
PUBLISHED = {
    cifar10: """
ncsn                         ald       100 .316    1   10     0 1300001 128 1e-3  34428675
ncsn_5                       ald       100 .316    1   10  .999 1300001 128 1e-3  34428675
ncsn_124                     ald         5 .176   50  232     0 1300001 128 1e-3  44828931
ncsn_1245                    ald         5 .176   50  232  .999 1300001 128 1e-3  44828931
ncsnv2                       ald         5 .176   50  232  .999 1300001 128 1e-4  33970563
ve_ddpm                      pc          1  .16   50 1000  .999 1300001 128 2e-4  35218947
ve_ncsnpp                    pc          1  .16   50 1000  .999 1300001 128 2e-4  62693251
ve_ncsnpp_continuous         pc          1  .16   50 1000  .999 1300001 128 2e-4  62758915
ve_ncsnpp_deep_continuous    pc          1  .16   50 1000  .999  950001 128 2e-4 107587075
vp_ddpm                      ancestral   -    -    - 1000 .9999 1300001 128 2e-4  35218947
vp_ddpm_unconditional        ancestral   -    -    - 1000 .9999 1300001 128 2e-4  32329347
vp_ddpm_continuous           euler       -    -    - 1000 .9999 1300001 128 2e-4  35218947
vp_ddpmpp                    ancestral   -    -    - 1000 .9999 1300001 128 2e-4  61804419
vp_ddpmpp_continuous         euler       -    -    - 1000 .9999 1300001 128 2e-4  61804419
vp_ddpmpp_deep_continuous    euler       -    -    - 1000 .9999  950001 128 2e-4 106632579
vp_ncsnpp                    reverse     -    -    - 1000 .9999 1300001 128 2e-4  62693251
vp_ncsnpp_continuous         euler       -    -    - 1000 .9999 1300001 128 2e-4  62693251
vp_ncsnpp_deep_continuous    euler       -    -    - 1000 .9999  950001 128 2e-4 107521411
subvp_ddpm_continuous        euler       -    -    - 1000 .9999 1300001 128 2e-4  35218947
subvp_ddpmpp_continuous      euler       -    -    - 1000 .9999 1300001 128 2e-4  61804419
subvp_ddpmpp_deep_continuous euler       -    -    - 1000 .9999  950001 128 2e-4 106632579
subvp_ncsnpp_continuous      euler       -    -    - 1000 .9999 1300001 128 2e-4  62693251
subvp_ncsnpp_deep_continuous euler       -    -    - 1000 .9999  950001 128 2e-4 107521411
ve_classifier_continuous     pc          1  .16   50 1000  .999  200001 128 2e-4  38913242
""",
    celeba: """
ncsn                         ald       100 .316    1   10     0 1300001 128 1e-3  34428675
ncsn_5                       ald       100 .316    1   10  .999 1300001 128 1e-3  34428675
ncsn_124                     ald         5 .128   90  500     0 1300001 128 1e-3  57384195
ncsn_1245                    ald         5 .128   90  500  .999 1300001 128 1e-3  57384195
ncsnv2                       ald         5 .128   90  500  .999 1300001 128 1e-4  33970563
ve_ncsnpp                    pc          1  .17   90 1000  .999 1300001 128 2e-4  62693251
""",
    lsun: """
bedroom_ncsnv2               ald         3 .095  190 1086 .9999 2400001 128 1e-4  83445379
bedroom_ve_ncsnpp_continuous pc          1 .075  378 2000  .999 2400001  64 2e-4  65574549
bedroom_vp_ddpm              ancestral   -    -    - 1000 .9999 2400001  64 2e-5 111569923
church_ve_ncsnpp_continuous  pc          1 .075  380 2000  .999 2400001  64 2e-4  65574549
church_vp_ddpm               ancestral   -    -    - 1000 .9999 2400001  64 2e-5 111569923
""",
    celebahq: """
ve_ncsnpp_continuous_256     pc          1 .075  348 2000  .999 2400001  64 2e-4  65574549
ve_ncsnpp_continuous_1024    pc          1  .15 1348 2000 .9999 2400001   8 2e-4 105785896
vp_ddpm_256                  ancestral   -    -    - 1000 .9999 2400001  64 2e-5 111569923
""",
    ffhq: """
ve_ncsnpp_continuous_256     pc          1 .075  348 2000  .999 2400001  64 2e-4  65574549
ve_ncsnpp_continuous_1024    pc          1  .15 1348 2000 .9999 2400001   8 2e-4 105785896
""",
}
# Read from the repositories of Improved DDPM, VDM, Soft Truncation and CLD-SGM.
BOUNDS_FIELDS = (
    *("training.n_iters", "training.batch_size", "optim.lr", "optim.warmup", "optim.grad_clip"),
    *("model.dropout", "model.nf", "model.num_res_blocks"),
)
BOUNDS = {
    cifar10: """
iddpm             hybrid       500000  128 1e-4      0 -1 .3 128  3  52546438
iddpm_vlb         vlb          500000  128 1e-4      0 -1 .3 128  3  52546438
vdm               vdm        10000000  128 2e-4    100 -1 .1 128 32  30586243
soft_truncation   denoising   1300001  128 2e-4   5000  1 .1 128  4  61804419
cld_sgm           denoising    800000  128 2e-4 100000  1 .1 128  8 107597446
""",
    imagenet64: """
iddpm             hybrid      1500000  128 1e-4      0 -1  0 128  3 121063942
iddpm_vlb         vlb         1500000  128 1e-4      0 -1  0 128  3 121063942
iddpm_conditional hybrid       250000 2048 3e-4      0 -1  0 192  3 273049350
""",
}
# Read from the options in EDM's repository (those not given there are train.py's defaults): million
# images in all and of the average's half-life, then EDM_FIELDS.
EDM_FIELDS = (
    "training.batch_size",
    "optim.lr",
    "model.dropout",
    "data.augment",
    "sampling.n_steps",
    "data.image_size",
)
EDM = {
    cifar10: """
edm_ddpmpp              200 .5  512 1e-3 .13 .12  18 32  55733891
edm_ncsnpp              200 .5  512 1e-3 .13 .12  18 32  56397955
edm_ddpmpp_conditional  200 .5  512 1e-3 .13 .12  18 32  55735299
edm_ncsnpp_conditional  200 .5  512 1e-3 .13 .12  18 32  56400771
sedm_gpp                200 .5  512 1e-3 .13 .12  18 32  55733891
sedm_gpp_50k            200 .5  512 1e-3 .13 .12  18 32  55733891
""",
    ffhq: """
edm_ddpmpp              200 .5  256 2e-4 .05 .15  40 64  61805571
edm_ncsnpp              200 .5  256 2e-4 .05 .15  40 64  62761219
""",
    afhq: """
edm_ddpmpp              200 .5  256 2e-4 .25 .15  40 64  61805571
edm_ncsnpp              200 .5  256 2e-4 .25 .15  40 64  62761219
""",
    imagenet64: """
edm_adm                2500 50 4096 1e-4 .10   0 256 64 295899267
""",
}


# Read from the table of training parameters in Karras et al. 2024 and from the options in EDM2's
# repository: 2^20 images in all, and EDM2_FIELDS. Numbers of parameters are theirs where they
# print them, in tenths of millions: 124.7, 280.2, 497.8, 777.5, 1119.3, 1523.2.
EDM2_FIELDS = (
    *("optim.lr", "model.nf", "model.dropout", "optim.decay_start"),
    *("noise_density.mean", "noise_density.std"),
)
EDM2 = {
    imagenet64: """
edm2_xs   1024 .0120 128  0 35000 -.8 1.6  124711461
edm2_s    1024 .0100 192  0 35000 -.8 1.6  280210021
edm2_m    2048 .0090 256 .1 35000 -.8 1.6  497803941
edm2_l    1024 .0080 320 .1 35000 -.8 1.6  777493221
edm2_xl    640 .0070 384 .1 35000 -.8 1.6 1119277861
""",
    imagenet512: """
edm2_xs   2048 .0120 128  0 70000 -.4 1.0  124713765
edm2_s    2048 .0100 192  0 70000 -.4 1.0  280213477
edm2_m    2048 .0090 256 .1 70000 -.4 1.0  497808549
edm2_l    1792 .0080 320 .1 70000 -.4 1.0  777498981
edm2_xl   1280 .0070 384 .1 70000 -.4 1.0 1119284773
edm2_xxl   896 .0065 448 .1 70000 -.4 1.0 1523165925
""",
}
AUTOENCODERS = {imagenet512: "autoencoder 83653863"}
DISCRIMINATORS = {
    cifar10: """
edm_discriminator                       23835010
edm_discriminator_published             49319681
edm_discriminator_conditional           49324801
"""
}


LATENT = {cifar10: "lsgm_nll 490894882\nindm_nll 72880387"}
"""Models with latents of their own, and the number of all parameters."""


def rows(tables):
    return [
        pytest.param(module, *line.split(maxsplit=2), id=f"{module.__name__}:{line.split()[0]}")
        for module, table in tables.items()
        for line in table.strip().splitlines()
    ]


def variants(module):
    """Names of the variants of score_sde."""
    return [line.split()[0] for line in PUBLISHED[module].strip().splitlines()]


@pytest.mark.parametrize("module", PUBLISHED | EDM | EDM2)
def test_the_tables_are_complete(module):
    own = PUBLISHED, EDM, EDM2, AUTOENCODERS, DISCRIMINATORS, BOUNDS, LATENT
    tables = [table.get(module, "").strip() for table in own]
    rows = [line.split() for table in tables for line in table.splitlines()]
    assert sorted(row[0] for row in rows) == sorted(module.VARIANTS)
    lines = [line.strip("| ").split() for line in module.__doc__.splitlines() if "|" in line]
    described = {line[0]: line[-1] for line in lines if line[0] in module.VARIANTS}
    assert list(described) == list(module.VARIANTS)
    assert described == {row[0]: f"{int(row[-1]):,}" for row in rows}


def check(config):
    """Builds the model without other runs' weights, as training would."""
    if models.kind(config) == "score":
        pipelines.untrained(config)
    else:
        restored.skeleton(config)


def parameters(network, size, channels=3):
    """The number of parameters. Only networks with attention depend on the size of the images."""
    return traced_parameters(
        network, size if hasattr(network, "attn_resolutions") else 32, channels
    )


@functools.cache
def traced_parameters(network, size, channels):
    arguments = jnp.zeros((1, size, size, channels)), jnp.ones(1)
    variables = jax.eval_shape(network.init, jax.random.key(0), *arguments)
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(("module", "variant", "sampler", "values"), rows(PUBLISHED))
def test_the_published_fields_and_network(module, variant, sampler, values):
    config = module.get_config(variant)
    check(config)
    *values, size = values.split()
    for field, value in zip(FIELDS, values, strict=True):
        section, name = field.split(".")
        assert value == "-" or config[section][name] == float(value)
    assert (config.sampling.predictor, config.sampling.corrector) == SAMPLERS[sampler]
    assert config.sampling.n_steps == config.model.num_scales
    # Divisions and dropout have no parameters: without them, many variants share a network.
    config.model.update(scale_by_sigma=False, sigma_max=1.0, dropout=0.0)
    config.data.centered = True
    assert parameters(models.create(config), config.data.image_size) == int(size)


@pytest.mark.parametrize("module", PUBLISHED)
def test_names_imply_the_objective(module):
    for variant in variants(module):
        config, words = module.get_config(variant), set(variant.split("_"))
        training, model, optim = config.training, config.model, config.optim
        vp = bool(words & {"vp", "subvp"})
        assert training.sde == ("subvpsde" if "subvp" in words else "vpsde" if vp else "vesde")
        assert training.continuous == ("continuous" in words)
        assert training.reduce_mean == (vp or (module is ffhq and "1024" in words))
        assert config.data.centered == vp
        assert model.scale_by_sigma == (not vp and "ncsn" not in words)
        assert (optim.warmup, optim.grad_clip) == (
            (0, -1) if words & {"ncsn", "ncsnv2"} else (5000, 1)
        )
        if model.name == "ncsnpp":
            fourier = not vp and training.continuous
            assert model.embedding_type == ("fourier" if fourier else "positional")


@pytest.mark.parametrize(("module", "variant", "millions", "values"), rows(EDM))
def test_edm_s_fields_and_network(module, variant, millions, values):
    config = module.get_config(variant)
    check(config)
    halflife, *values, size = values.split()
    for field, value in zip(EDM_FIELDS, values, strict=True):
        section, name = field.split(".")
        assert config[section][name] == float(value)
    batch_size = config.training.batch_size
    assert config.training.n_iters == np.ceil(float(millions) * 1e6 / batch_size)
    assert config.optim.warmup == 10_000_000 // batch_size
    assert config.model.ema_halflife == float(halflife) * 1e6
    assert config.model.augment_dim == (9 if config.data.augment else 0)
    assert not config.data.random_flip
    assert not config.data.uniform_dequantization
    training, model, optim = config.training, config.model, config.optim
    assert (training.sde, config.weighting.name) == ("edm", "edm")
    density = config.noise_density  # its mean and std are EDM's by default
    assert (density.name, density.mean, density.std) == ("log_normal", None, None)
    assert (model.parametrization, model.sigma_data, model.ema_rampup) == ("edm", 0.5, 0.05)
    assert (optim.grad_clip, optim.nan_to_num, optim.beta2) == (-1, True, 0.999)
    sampler = sampling.sampler(config)
    assert isinstance(sampler, samplers.EDM)
    assert (sampler.grid, sampler.rho, sampler.alpha) == ("karras", None, 1.0)
    assert diffusion.sde(config) == sde_lib.EDM(t_min=0.002, t_max=80.0)
    network = models.create(config)
    classes = {cifar10: 10 * ("conditional" in variant), imagenet64: 1000}
    assert network.num_classes == classes.get(module, 0)
    assert network.centered
    assert parameters(network.clone(dropout=0.0), config.data.image_size) == int(size)


@pytest.mark.thorough
@pytest.mark.parametrize(("module", "variant", "mebi_images", "values"), rows(EDM2))
def test_edm2_s_fields_and_network(module, variant, mebi_images, values):
    config, latents = module.get_config(variant), module is imagenet512
    *values, size = values.split()
    for field, value in zip(EDM2_FIELDS, values, strict=True):
        section, name = field.split(".")
        assert config[section][name] == float(value)
    assert config.training.n_iters * 2048 == int(mebi_images) * 2**20
    training = optimization.training(config)
    assert (training.batch_size, training.ema_period * 2048) == (2048, 2**23)
    assert training.average.lengths == (0.05, 0.1)
    assert config.optim.warmup == pytest.approx(10e6 / 2048, abs=1)
    adam = optimization.adam(config)
    assert (adam.beta1, adam.beta2, adam.eps, adam.weight_decay) == (0.9, 0.99, 1e-8, 0)
    assert (adam.grad_clip, config.optim.nan_to_num) == (-1, True)
    end = adam.lr * (int(mebi_images) * 512 / adam.schedule.decay_start) ** -0.5
    assert float(adam.rate(config.training.n_iters)) == pytest.approx(end, rel=1e-5)
    assert (config.objective.log_variance, config.training.reduce_mean) == (128, True)
    assert config.model.sigma_data == 0.5
    assert sampling.sampler(config) == samplers.EDM(n_steps=32)
    assert bool(config.data.autoencoder) == latents
    assert not config.data.random_flip
    assert not config.data.uniform_dequantization
    network = models.create(config)
    assert (network.num_classes, network.logvar_channels) == (1000, 128)
    assert network.project is not None
    assert parameters(network.clone(dropout=0.0), 64, 4 if latents else 3) == int(size)
    if not latents:
        check(config)


@pytest.mark.thorough
def test_latents_of_imagenet_are_those_of_stable_diffusion_s_autoencoder():
    config, latent = (imagenet512.get_config(name) for name in ("autoencoder", "edm2_s"))
    assert parameters(models.create(config), 512) == int(AUTOENCODERS[imagenet512].split()[1])
    assert specs.latent_shape(config) == (64, 64, 4)
    assert {name: config.data[name] for name in related.SHARED} == {
        name: latent.data[name] for name in related.SHARED
    }
    assert specs.scaling(config).range == (0, 1)
    assert (latent.data.latent_mean, latent.data.latent_std) == tuple(LATENTS)
    published.FORMATS["autoencoder_kl"].table(published.skeleton(config))


@pytest.mark.thorough
@pytest.mark.parametrize(("module", "variant", "objective", "values"), rows(BOUNDS))
def test_the_fields_and_networks_of_published_bounds(module, variant, objective, values):
    config = module.get_config(variant)
    made = tasks.task(config)
    *values, size = values.split()
    for field, value in zip(BOUNDS_FIELDS, values, strict=True):
        section, name = field.split(".")
        assert config[section][name] == float(value)
    assert config.objective.name == objective
    assert config.data.random_flip == (variant in ("soft_truncation", "cld_sgm"))
    channels = made.model.sde.state_shape((1, *made.shape))[-1]
    network = models.create(config).clone(dropout=0.0)
    assert parameters(network, config.data.image_size, channels) == int(size)
    sde = {
        "vdm": sde_lib.LogLinear(-13.3, 5.0),
        "soft_truncation": sde_lib.VP(),
        "cld_sgm": sde_lib.CLD(beta=4.0, mass=0.25, gamma=0.04),
    }.get(variant, sde_lib.chain(4000, "cosine"))
    assert made.model.sde == sde


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("module", "file"),
    [(cifar10, "cifar10_uncond_50M_500K.pt"), (imagenet64, "imagenet64_cond_270M_250K.pt")],
)
def test_improved_ddpm_is_that_of_the_published_files(module, file):
    """Its networks have the published names, and its fields are those of the cards."""
    variant = "iddpm_conditional" if "cond_270M" in file else "iddpm"
    config = module.get_config(variant)
    (card,) = (card for card in DIFFUSION if file in card.files)
    for field, value in card.fields.items():
        section, name = field.split(".")
        assert config[section][name] == value
    names = published.FORMATS["guided_diffusion"].table(published.skeleton(config)).values()
    known = " ".join(tensor.name for tensor in names)
    for name in ("input_blocks.4.0.op.weight", "middle_block.1.qkv.weight", "out.2.bias"):
        assert name in known
    rest = objectives.loss_of(config, diffusion.sde(config))(None).keywords
    assert rest["vlb_weight"] == pytest.approx(1e-3 if variant == "iddpm" else 1 / 4000)


@pytest.mark.thorough
@pytest.mark.parametrize(("module", "variant", "values"), rows(LATENT))
def test_models_with_latents_have_the_published_fields(module, variant, values):
    config = module.get_config(variant)
    task = tasks.task(config)
    state = jax.eval_shape(task.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == int(values)
    lsgm = variant == "lsgm_nll"
    assert task.model.diffused_shape == ((16, 16, 180) if lsgm else (32, 32, 3))
    assert diffusion.sde(config) == (sde_lib.GeometricVP() if lsgm else sde_lib.VP())
    assert (config.model.nf, config.model.num_res_blocks) == ((512, 8) if lsgm else (128, 4))
    assert (config.optim.lr, config.training.batch_size) == ((1e-4, 256) if lsgm else (2e-4, 128))


def test_sedm_gpp_is_edm_with_the_published_guides():
    config, plain = (cifar10.get_config(name) for name in ("sedm_gpp", "edm_ddpmpp"))
    scaling, discriminator = config.guidance.epsilon_scaling, config.guidance.discriminator
    assert (scaling.scale, scaling.guided) == (1.0004, None)
    assert (discriminator.weight, discriminator.weight_2nd_order) == (1.67, 0)
    assert sampling.sampler(config) == samplers.EDM(n_steps=18)
    assert sampling.sampler(config).nfe == 35
    config.guidance = plain.guidance
    assert config == plain


def test_a_study_of_50_000_samples_is_a_preset():
    config, plain = (cifar10.get_config(name) for name in ("sedm_gpp_50k", "sedm_gpp"))
    options = ablation.Options(**config.ablate.to_dict())
    assert options.sizes == {"choose": 10_000, "report": 50_000}
    assert (options.n_seeds, config.eval.num_samples, config.eval.n_seeds) == (5, 50_000, 3)
    assert {2.0, 4.0} <= set(options.weights)
    assert {1.0004, 1.2} <= set(options.scales)
    assert "EDM-ES-k" in options.arms(guided=True)
    for name in ("ablate", "eval", "sampling"):
        config[name] = plain[name]
    assert config == plain


def test_the_discriminator_s_encoder_is_the_network_that_it_guides():
    config = cifar10.get_config("edm_discriminator")
    check(config)
    network, guided = (models.create(c) for c in (config, cifar10.get_config("edm_ddpmpp")))
    assert network.encoder == guided
    assert (network.frozen, config.noise_density.name) == (True, "log_uniform")
    assert parameters(network, 32) == int(DISCRIMINATORS[cifar10].split()[1])


@pytest.mark.thorough
@pytest.mark.parametrize("variant", ["published", "conditional"])
def test_the_published_discriminator_is_that_of_its_files(variant):
    """Two encoders of guided-diffusion; 2.88 million parameters are trained, as reported."""
    config = cifar10.get_config(f"edm_discriminator_{variant}")
    network = models.create(config)
    assert network.frozen
    rows = dict(line.split() for line in DISCRIMINATORS[cifar10].strip().splitlines())
    assert parameters(network, 32) == int(rows[f"edm_discriminator_{variant}"])
    table = published.FORMATS["discriminator_guidance"].table(published.skeleton(config))
    names = {tensor.name for tensor in table.values()}
    assert "classifier.input_blocks.14.1.qkv.weight" in names
    assert "discriminator.input_blocks.2.1.qkv.weight" in names
    assert "discriminator.input_blocks.3.0.in_layers.0.weight" not in names
    assert ("discriminator.label_emb.weight" in names) == (variant == "conditional")


@pytest.mark.thorough
def test_the_published_discriminator_reads_the_published_classifier(tmp_path):
    """As the file of ImageNet's classifier of 32 x 32 pixels is imported."""
    config = cifar10.get_config("edm_discriminator_published")
    encoder = models.create(config).encoder.clone(num_outputs=1000)
    about = {"name": "32x32_classifier.pt", "form": "guided_diffusion_classifier"}
    source, _ = guided_models.make_file(network=encoder, **about)
    form = published.FORMATS[about["form"]]
    found = form.find(source)
    card = next(card for card in form.cards if source.path.name in card.files)
    theirs = guided_models.config_of(found, card)
    configs.save(theirs, tmp_path)
    config.model.pretrained = str(tmp_path)
    assert frozen.encoder_config(config).model.name == "adm_classifier"


def test_the_published_discriminator_is_trained_as_published():
    config = cifar10.get_config("edm_discriminator_published")
    training, adam = optimization.training(config), optimization.adam(config)
    assert training.n_iters == 60 * 100_000 // training.batch_size
    assert (adam.lr, adam.weight_decay, adam.warmup, adam.grad_clip) == (3e-4, 1e-7, 0, -1)
    assert (training.random_flip, training.average.rate, config.data.augment) == (False, 0, 0)
    assert config.data.generated_test_fraction == 0
    sde = diffusion.sde(config)
    assert (sde, sde.train_t_min, sde.t_max) == (sde_lib.VP(0.1, 20.0), 1e-5, 1)
    assert config.noise_density.name == "log_uniform"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("module", "variant", "names"),
    [
        (
            cifar10,
            "edm_ddpmpp",
            ("map_augment.weight", "enc.32x32_block3.conv1", "dec.8x8_in1.conv"),
        ),
        (
            cifar10,
            "edm_ncsnpp_conditional",
            ("map_noise.freqs", "map_label.bias", "aux_residual.w"),
        ),
        (imagenet64, "edm_adm", ("map_label.weight", "enc.8x8_block2.norm2.bias", "out_conv.bias")),
    ],
)
def test_edm_networks_have_the_published_names(module, variant, names):
    config = module.get_config(variant)
    with pytest.raises(ValueError, match=r"does not fit this config: missing .* and \d+ more"):
        models.torch_import.edm({}, config)
    table = published.FORMATS["edm"].table(published.skeleton(config))
    known = " ".join(tensor.name for tensor in table.values())
    for name in names:
        assert name in known


def test_imagenet_is_sampled_stochastically_with_511_evaluations():
    options = imagenet64.get_config().sampling
    churn = options.s_churn, options.s_tmin, options.s_tmax, options.s_noise
    assert (2 * options.n_steps - 1, *churn) == (511, 40, 0.05, 50, 1.003)


@pytest.mark.thorough
def test_a_published_train_step_keeps_its_shapes():
    """With one block a level: fewer layers to trace, and the same kinds."""
    config = cifar10.get_config("edm_ddpmpp_conditional")
    config.model.num_res_blocks = 1
    task, mesh = tasks.task(config), optimization.mesh(config)
    state = abstract_state(task, config.seed, mesh)
    shape = (1, config.training.batch_size)
    images = jax.ShapeDtypeStruct((*shape, 32, 32, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct(shape, jnp.int32)
    step = make_train_step(task, optimization.training(config), mesh)
    after, metrics = jax.eval_shape(step, state, images, {"class_labels": labels})
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert metrics["loss"].shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants(cifar10))
def test_a_published_train_step_runs(variant):
    config = cifar10.get_config(variant)
    config.training.batch_size = 2
    task, mesh = tasks.task(config), optimization.mesh(config)
    step = jax.jit(make_train_step(task, optimization.training(config), mesh), donate_argnums=0)
    batch = np.random.RandomState(0).randint(256, size=(1, 2, 32, 32, 3)).astype(np.uint8)
    labels = {"class_labels": np.array([[3, 7]])} if config.model.class_conditional else {}
    state = init_state(task, config.seed, abstract_state(task, config.seed, mesh))
    _, metrics = step(state, batch, labels)
    assert np.isfinite(float(metrics["loss"]))
