"""Handwritten digits, 8 x 8 pixels in 17 grey levels (scikit-learn's): the main job, on a CPU.

    python -m experiments.main --config=configs/digits.py

| variant      | what                                       | two CPU cores | test bits/dim |
| ------------ | ------------------------------------------ | ------------- | ------------- |
| vp           | the default: VP with EDM's preconditioning | 3 minutes     | 1.88 +- 0.014 |
| vp_score_sde | VP with score_sde's conventions            | 5 minutes     | 1.98 +- 0.015 |
| ve           | VE, NCSN++'s conventions                   | 5 minutes     | not measured  |
| subvp        | subVP, score_sde's conventions             | 5 minutes     | not measured  |
| long         | vp_score_sde with dropout, longer          | 50 minutes    | see below     |
| edm          | EDM                                        | 3 minutes     | 1.88 +- 0.014 |
| vdm          | VDM, its schedule learned                  | 5 minutes     | 1.83 +- 0.014 |
| vdm_fixed    | VDM, log-SNR linear in t                   | 5 minutes     | not measured  |
| vlb          | DDPM with learned variance                 | 5 minutes     | not measured  |

vp sees log(sigma / alpha) / 4, EDM's label, which is smooth in time: it trains to better bits/dim,
its likelihood takes 91 network evaluations instead of 242, and its samples take 35.

classifier (1 minute) learns to tell noisy digits apart, to guide vp by their class; edm_classifier
does so under EDM's noise. discriminator (2 minutes) learns to tell edm's samples from the data, to
guide edm to these (Kim et al. 2023):

    main="python -m experiments.main --config=configs/digits.py"
    $main:edm
    $main:edm --mode=generate --config.sampling.n_samples=6000
    $main:discriminator
    $main:edm --mode=evaluate --config.guidance.discriminator.run=runs/digits-discriminator

It is a head on edm's own way down, which stays (config.model.encoder and pretrained).

Fréchet and kernel distance of 4,000 samples to the training data (--mode=evaluate, with random
features), and network evaluations a sample: edm 0.0065 and 0.00008 at 35; vp 0.027 and 0.0007 at
300, or 0.021 and 0.0002 at 35 (--config.sampling.method=edm --config.sampling.n_steps=18). With 127
evaluations, edm is no better (0.012 and 0.0003).

VDM's own figure is its bound (--mode=evaluate), 1.781 +- 0.013 of vdm and 1.808 +- 0.013 of
vdm_fixed, 0.027 +- 0.002 apart on the same images and noise (one seed, 100 noise levels an image).
Both are of the grey levels themselves, without uniform noise, which their networks, with Fourier
features, have never seen: their least noise is a seventh of a step between grey levels.

long was measured at 5,153 of its 25,000 steps, after ten minutes: 1.85 +- 0.014.

For comparison, a Gaussian with full covariance has 2.97 bits/dim and a histogram for each pixel
2.44.
"""

from configs import default, published

VARIANTS = (
    *("vp", "ve", "subvp", "long", "edm", "vdm", "vdm_fixed", "vlb"),
    *("classifier", "edm_classifier", "discriminator"),
)


def get_config(variant: str = "vp") -> default.Config:
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    config.data.dataset = "digits"
    config.data.image_size = 8
    config.data.num_channels = 1
    config.data.num_classes = 10

    training = config.training
    training.batch_size = 64
    training.n_iters = 1600
    training.snapshot_freq = 800
    training.snapshot_freq_for_preemption = 400
    training.eval_freq = 400
    training.likelihood_weighting = True
    training.importance_sampling = True
    config.objective.stratified = True

    config.sampling.n_steps = 300
    config.eval.batch_size = 297
    config.eval.rtol = config.eval.atol = 3e-4
    config.eval.num_samples = 1000

    model = config.model
    model.nf = 32
    model.ch_mult = (1, 2)
    model.num_res_blocks = 1
    model.attn_resolutions = (4,)
    model.resblock_type = "biggan"
    model.skip_rescale = True
    model.init_scale = 0.0
    model.embedding_type = "positional"
    model.progressive_input = "none"
    model.scale_by_sigma = False
    model.fir = False
    model.dropout = 0.0
    model.ema_rate = 0.999
    config.optim.lr = 2e-3
    config.optim.warmup = 100

    if variant == "ve":
        training.sde = "vesde"
        model.embedding_type = "fourier"
        model.scale_by_sigma = True
        model.sigma_max = 10.0
    elif variant == "subvp":
        training.sde = "subvpsde"
    elif variant == "long":
        training.n_iters = 25_000
        training.snapshot_freq = 5000
        model.dropout = 0.1
        model.ema_rate = 0.9995
        config.optim.lr = 1e-3
    elif variant in ("vdm", "vdm_fixed"):
        training.sde, config.objective.name = "log_linear", "vdm"
        training.likelihood_weighting = training.importance_sampling = False
        config.data.uniform_dequantization = False
        config.eval.enable_bound = True
        model.learned_schedule = variant == "vdm"
        model.gamma_min, model.gamma_max = -8.0, 6.0  # least noise: a seventh of a step
        model.fourier_features = (3, 4)  # their periods: two steps and one
        model.parametrization = "v"
    elif variant == "vlb":
        training.continuous = False
        config.objective.name = "hybrid"
        training.likelihood_weighting = training.importance_sampling = False
        model.learned_variance = True
        config.sampling.method = "ddpm"
        config.sampling.variance = "learned"
        config.eval.enable_bound = True
    if variant in ("edm", "edm_classifier", "discriminator"):
        config.update_from_flattened_dict(published.EDM_METHOD)
        training.likelihood_weighting = training.importance_sampling = False
        model.sigma_data = 0.75
    if variant in ("classifier", "edm_classifier", "discriminator"):
        model.name = "wideresnet"
        model.blocks_per_group = 1
        model.channel_multiplier = 2
        training.n_iters = 1500
    if variant in ("edm_classifier", "discriminator"):
        config.noise_density.name = "log_uniform"
    if variant == "discriminator":
        model.name, model.encoder = "discriminator", "ncsnpp"
        config.data.generated = "runs/digits-edm/generated.npz"
        model.pretrained = "runs/digits-edm"
        training.n_iters = 4000
    return config
