"""Handwritten digits of scikit-learn, 8 x 8 pixels in 17 grey levels: minutes on a CPU.

    python -m experiments.main --config=configs/digits.py

| variant      | description                                | two CPU cores | test bits/dim |
| ------------ | ------------------------------------------ | ------------- | ------------- |
| vp           | the default: VP, EDM's preconditioning     | 3 minutes     | 1.88 +- 0.014 |
| vp_score_sde | VP with score_sde's conventions            | 5 minutes     | 1.98 +- 0.015 |
| ve           | VE, NCSN++'s conventions                   | 5 minutes     | not measured  |
| subvp        | subVP with score_sde's conventions         | 5 minutes     | not measured  |
| long         | vp_score_sde with dropout, longer          | 50 minutes    | see below     |
| edm          | EDM                                        | 3 minutes     | 1.88 +- 0.014 |
| vdm          | VDM, learned schedule                      | 5 minutes     | 1.83 +- 0.014 |
| vdm_fixed    | VDM, log-SNR linear in t                   | 5 minutes     | not measured  |
| vlb          | DDPM with learned variance                 | 5 minutes     | not measured  |

The network of vp sees log(sigma / alpha) / 4, EDM's label, which is smooth in time. It trains to
better bits/dim than that of vp_score_sde, which sees 999 t. Its likelihood takes 91 network
evaluations in place of 242, a sample 35 in place of 300.

classifier (1 minute) classifies noisy digits, for classifier guidance of vp; edm_classifier does so
for edm. discriminator (2 minutes) separates samples of edm from data, for discriminator guidance of
edm (Kim et al. 2023):

    main="python -m experiments.main --config=configs/digits.py"
    $main:edm
    $main:edm --mode=generate --config.sampling.n_samples=6000
    $main:discriminator
    $main:edm --mode=evaluate --config.guidance.discriminator.run=runs/digits-discriminator

The discriminator is a head on the frozen encoder of edm (config.model.encoder and pretrained).

Fréchet and kernel distance of 4,000 samples to the training data (--mode=evaluate, with random
features), at a number of network evaluations per sample: edm 0.0065 and 0.00008 at 35;
vp_score_sde 0.027 and 0.0007 at 300, or 0.021 and 0.0002 at 35 (--config.sampling.method=edm
--config.sampling.n_steps=18). With 127 evaluations, edm is no better (0.012 and 0.0003).

The variational bound of VDM (--mode=evaluate) is 1.781 +- 0.013 for vdm and 1.808 +- 0.013 for
vdm_fixed. They differ by 0.027 +- 0.002 on the same images and noise (one seed, 100 noise levels
per image). Both bounds are for the grey levels themselves, without uniform dequantization, which
was not used in training either: the least noise is a seventh of a step between grey levels.

long was measured at 5,153 of its 25,000 steps, after ten minutes: 1.85 +- 0.014.

For comparison, a Gaussian with full covariance has 2.97 bits/dim, and a histogram per pixel has
2.44.
"""

from configs import default, published

VARIANTS = (
    *("vp", "vp_score_sde", "ve", "subvp", "long", "edm", "vdm", "vdm_fixed", "vlb"),
    *("classifier", "edm_classifier", "discriminator"),
)


def get_config(variant: str = "vp") -> default.Config:
    """The config of a variant in the table above."""
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
    config.objective.stratified = True

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

    if variant in ("vp", "edm", "edm_classifier", "discriminator"):
        config.update_from_flattened_dict(published.EDM_METHOD)
        model.sigma_data = 0.75
    else:
        config.sampling.n_steps = 300
    if variant == "vp":
        training.sde = "vpsde"
    if variant in ("vp_score_sde", "ve", "subvp", "long", "classifier"):
        training.likelihood_weighting = True
        training.importance_sampling = True
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
        config.data.uniform_dequantization = False
        config.eval.enable_bound = True
        model.learned_schedule = variant == "vdm"
        model.gamma_min, model.gamma_max = -8.0, 6.0  # least noise: 1/7 of a grey level
        model.fourier_features = (3, 4)  # periods of two steps and one step between grey levels
        model.parametrization = "v"
    elif variant == "vlb":
        training.continuous = False
        config.objective.name = "hybrid"
        model.learned_variance = True
        config.sampling.method = "ddpm"
        config.sampling.variance = "learned"
        config.eval.enable_bound = True
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
