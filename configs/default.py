"""Default config of every experiment. Sections and field names follow score_sde's configs."""

import difflib
from typing import Any

import ml_collections
from ml_collections import config_dict

Config = Any  # an ml_collections.ConfigDict: a type checker cannot know its fields


def get_config() -> Config:
    """The default config. The other files in configs/ state their differences from it."""
    config: Config = ml_collections.ConfigDict()
    config.seed = 42

    own = config_dict.placeholder  # None: the default of the chosen method

    mesh = config.mesh = ml_collections.ConfigDict()  # all devices of all hosts
    mesh.data = -1  # data parallelism: copies of the state; -1: all devices that fsdp leaves
    mesh.fsdp = 1  # devices that share one copy of the state (fully sharded data parallelism)

    training = config.training = ml_collections.ConfigDict()
    training.sde = "vpsde"  # or "vesde", "subvpsde", "edm", "cosine", "sigmoid", "linear", "flow",
    # "log_linear", "cld"
    training.continuous = True
    training.n_iters = 1_300_001
    training.batch_size = 128
    training.n_microbatches = 1  # gradient accumulation: parts of a batch, one after another
    training.steps_per_jit = 1  # steps per compiled call; more: less overhead on accelerators
    training.log_freq = 50  # steps between lines in metrics.jsonl
    training.snapshot_freq = 50_000  # steps between sample pictures and permanent checkpoints
    training.snapshot_freq_for_preemption = 10_000  # steps between checkpoints for resuming
    training.eval_freq = 5_000  # steps between evaluations of the held-out loss
    training.max_skipped = 10  # stop after so many non-finite losses or gradients in a row
    training.stall_seconds = 300.0  # warn after so many seconds without a step
    training.likelihood_weighting = False  # weight g(t)^2 in place of sigma(t)^2
    training.importance_sampling = False  # of t; needs likelihood_weighting
    training.stratified = False  # stratified t: one in each of batch_size intervals
    training.reduce_mean = False  # mean over dimensions; False: half the sum
    training.noise_density = "uniform"  # density of t or noise level (sde_lib/noise_density.py)
    training.noise_mean = -1.2  # "log_normal": mean of log(sigma / alpha)
    training.noise_std = 1.2  # "log_normal": standard deviation
    training.noise_std_above = 1.2  # "split_log_normal": standard deviation above the mean
    training.weighting = "variance"  # or "edm" and others (sde_lib/weighting.py)
    training.weighting_bias = 2.0  # bias of the weighting "sigmoid"
    training.objective = "denoising"  # "explicit", "sliced", "sliced_vr", "hybrid", "vlb" or "vdm"
    training.n_projections = 1  # "sliced" and "sliced_vr": random projections per sample
    training.vlb_weight = 1e-3  # "hybrid": weight of the variational bound
    training.loss_history = 0  # loss-aware sampling of t: losses kept per level; 0: off
    training.soft_truncation = own(float)  # k in the density 1 / t^k of a batch's smallest t
    training.input_perturbation = 0.0  # std of extra noise in the network's input; published: 0.1

    sampling = config.sampling = ml_collections.ConfigDict()
    sampling.method = "predictor_corrector"  # a name in samplers.SAMPLERS
    sampling.n_samples = 64
    sampling.batch_size = 64
    sampling.n_steps = 1000
    sampling.predictor = "reverse_diffusion"
    sampling.corrector = "none"
    sampling.n_steps_each = 1  # corrector steps at each time
    sampling.snr = 0.16
    sampling.noise_removal = True
    sampling.probability_flow = False
    sampling.rtol = own(float)  # relative tolerance of the adaptive methods
    sampling.atol = own(float)  # absolute tolerance
    sampling.step_size = own(float)  # "annealed_langevin": step size
    sampling.grid = own(str)  # a name in samplers.noise_levels.GRIDS
    sampling.rho = own(float)  # grids "karras" and "polyexponential": exponent
    sampling.sigma_max = own(float)  # first noise level sigma / alpha; None: that of the SDE
    sampling.sigma_min = own(float)  # last noise level sigma / alpha
    sampling.eta = own(float)  # noise that the steps add; 0: deterministic
    sampling.order = own(int)  # order of the solver
    sampling.variant = own(str)  # "unipc": "bh1" or "bh2"
    sampling.variance = own(str)  # "ddpm": "beta", "posterior", "learned" or "analytic"
    sampling.alpha = own(float)  # "heun" and "edm": 1: Heun's method, 0.5: midpoint method
    sampling.s_churn = own(float)  # "edm", "euler" and "dpm_2": churn, noise added before a step
    sampling.s_tmin = own(float)  # least noise level with churn
    sampling.s_tmax = own(float)  # greatest noise level with churn
    sampling.s_noise = own(float)  # standard deviation of the churn noise
    sampling.label = -1  # class to sample, or to guide to; -1: all classes in turn
    sampling.prompt = ""  # caption to sample, for a model with text; "": captions of the test set
    sampling.negative_prompt = ""  # caption to guide away from
    sampling.embeddings = ""  # .npz file with arrays "prompt" and "negative_prompt"
    sampling.low_res = ""  # super-resolution: folder of the base model's run
    sampling.low_res_noise = 0.0  # standard deviation of the noise added to the base model's images
    sampling.confidence = 1.0  # confidence in the class, for a model with label_confidence
    sampling.cfg_weight = 1.0  # classifier-free guidance scale; 1: conditional, 0: unconditional
    sampling.negative_label = -1  # class to guide away from; -1: none
    sampling.negative_terms = 3  # scores in its combination: 3 with the unconditional, or 2
    sampling.classifier = ""  # classifier guidance: folder of the classifier's run
    sampling.guidance_weight = 1.0  # guidance scale of the classifier
    sampling.guidance_schedule = "constant"  # of both scales (samplers/guidance_schedules.py)
    sampling.schedule_low = own(float)  # "interval": least noise level with guidance
    sampling.schedule_high = own(float)  # "interval": greatest noise level with guidance
    sampling.schedule_least = own(float)  # "clamp_linear": least scale
    sampling.schedule_power = own(float)  # "power_cosine": exponent
    sampling.discriminator = ""  # discriminator guidance: folder of the discriminator's run
    sampling.dg_weight_1st_order = 1.0  # guidance scale, first evaluation of a step
    sampling.dg_weight_2nd_order = 0.0  # guidance scale, other evaluations of a step
    sampling.dg_boost = False  # double the scale where a sample is classified as generated
    sampling.dg_sigma_min = own(float)  # least noise level with guidance; None: published value
    sampling.dg_sigma_max = own(float)  # greatest noise level; None: published value
    sampling.eps_scale = 1.0  # epsilon scaling: divisor of the predicted noise, at t = 0
    sampling.eps_scale_slope = 0.0  # epsilon scaling: slope of the divisor in t
    sampling.eps_scale_guided = False  # epsilon scaling after guidance; False: before guidance
    sampling.time_shift_window = 0.0  # time shift: largest change of the network's t; 0: off
    sampling.time_shift_cutoff = 0.0  # time shift: least t with a shift

    evaluation = config.eval = ml_collections.ConfigDict()
    evaluation.batch_size = 256
    evaluation.rtol = 1e-5
    evaluation.atol = 1e-5
    evaluation.probe = "rademacher"  # or "gaussian", or "exact" in few dimensions
    evaluation.n_probes = 1
    evaluation.n_repeats = 1  # passes over the test set, each with new dequantisation noise
    evaluation.checkpoints = "last"  # or "all"
    evaluation.enable_loss = True
    evaluation.enable_bpd = True
    evaluation.enable_bound = False  # the variational bound, term by term
    evaluation.bound_steps = 1000  # noise levels of the bound
    evaluation.enable_sampling = True
    evaluation.num_samples = 50_000
    evaluation.features = ""  # file of Inception weights, .pth or .npz; "": random features

    edit = config.edit = ml_collections.ConfigDict()
    edit.task = "inpaint"  # "colorize", "variations", "reconstruct" or "interpolate"
    edit.n_images = 8  # the first images of the test set
    edit.n_results = 6  # results per image, or between two images
    edit.mask = "left"  # known pixels: the "left" half, or all but the "centre"
    edit.strength = 0.3  # "variations": 0 changes nothing, 1 everything
    edit.n_iterations = 3  # "inpaint" and "colorize": conjugate gradient iterations

    detect = config.detect = ml_collections.ConfigDict()
    detect.n_images = 256  # real images, and as many samples
    detect.n_steps = 20  # Euler steps in each direction

    exposure = config.exposure_bias = ml_collections.ConfigDict()
    exposure.solvers = ("euler", "heun")
    exposure.nfe = (13, 21, 35)  # network evaluations per sample
    exposure.n_samples = 1000

    ablate = config.ablate = ml_collections.ConfigDict()
    ablate.solvers = ("euler", "heun")
    ablate.nfe = (13, 21, 35)
    ablate.weights = (1.0, 1.67, 2.5)  # guidance scales of the discriminator
    ablate.scales = (1.0004, 1.005, 1.02, 1.05)  # epsilon scaling of the predicted noise
    ablate.n_samples = 2000
    ablate.n_seeds = 3  # sample sets for the figures, besides one for choosing

    data = config.data = ml_collections.ConfigDict()
    data.dataset = ""
    data.path = ""  # cifar10, folder, npz, huggingface: a file, a folder or a name
    data.cache = "~/.cache/score-sde-jax"  # folder of downloaded or rendered data
    data.resident_bytes = 2**30  # size up to which a data set is kept on every device
    data.test_fraction = 0.1  # held-out fraction of data without a test set
    data.image_size = 32
    data.num_channels = 3
    data.num_classes = 0  # classes of labelled data
    data.autoencoder = ""  # latent diffusion: folder of the autoencoder's run
    data.embeddings = ""  # caption embeddings: .npz file with arrays "train" and "test"
    data.confidence = ""  # folder of the classifier that estimates label confidences
    data.generated = ""  # discriminator: .npz file of samples from --mode=generate
    data.centered = True  # scale data to [-1, 1]; False: to [0, 1]
    data.random_flip = False
    data.augment = 0.0  # probability of each of EDM's augmentations; needs model.augment_dim = 9
    data.uniform_dequantization = True

    model = config.model = ml_collections.ConfigDict()
    model.name = "ncsnpp"
    model.sigma_min = 0.01
    model.sigma_max = 50.0
    model.beta_min = 0.1
    model.beta_max = 20.0
    model.num_scales = 1000
    model.parametrization = "score_sde"  # or a name in models/parametrization.py
    model.sigma_data = 0.5  # parametrization "edm": standard deviation of the data
    model.ema_rate = 0.9999
    model.ema_halflife = 0.0  # EMA half-life in images; if positive, replaces ema_rate
    model.ema_rampup = 0.05  # upper limit of the half-life, as a fraction of the images so far
    model.nf = 128
    model.num_res_blocks = 4
    model.class_conditional = False  # condition on class labels, of data.num_classes
    model.label_dropout = 0.0  # probability of dropping the condition in training
    model.label_confidence = False  # also condition on the confidence of the class label
    model.text = ""  # condition on captions: "bytes", or "embeddings" of data.embeddings
    model.text_length = 64  # maximum length of a caption, in bytes
    model.text_width = 128  # features per token
    model.text_depth = 2  # blocks of the transformer that encodes bytes
    model.low_res_size = 0  # super-resolution: side of the low-resolution images; 0: none
    model.low_res_noise = 0.0  # maximum noise added to the low-resolution images in training
    model.learned_variance = False  # also predict the variance of a DDPM step
    model.learned_schedule = False  # "vdm": learn the noise schedule; False: log-SNR linear in t
    model.gamma_min = -13.3  # SDE "log_linear": -log-SNR at t = 0
    model.gamma_max = 5.0  # SDE "log_linear": -log-SNR at t = 1
    model.fourier_features = ()  # n of extra inputs sin(2^n pi x) and cos(2^n pi x)
    model.cld_beta = 4.0  # SDE "cld": beta
    model.cld_mass = 0.25  # SDE "cld": mass
    model.cld_gamma = 0.04  # SDE "cld": variance of velocities at t = 0, over the mass
    model.encoder = "wideresnet"  # "discriminator": the network below its head
    model.pretrained = ""  # folder of the run with the encoder's frozen weights; "": train them
    model.augment_dim = 0  # number of augmentation labels; EDM: 9
    model.dtype = "float32"  # dtype of activations; "bfloat16" is faster on accelerators
    model.remat = False  # recompute activations: less memory (not on CPU), more time

    autoencoder = config.autoencoder = ml_collections.ConfigDict()  # for model.name = "autoencoder"
    autoencoder.latent_channels = 4
    autoencoder.regularization = "kl"  # or "vq"
    autoencoder.kl_weight = 1e-6
    autoencoder.codebook_size = 512
    autoencoder.commitment = 0.25
    autoencoder.perceptual = ""  # file of Inception weights, or folder of a classifier's run
    autoencoder.perceptual_weight = 1.0
    autoencoder.adversarial_weight = 0.0  # weight of the patch discriminator's loss
    autoencoder.adversarial_start = 0  # first step with the patch discriminator's loss

    optim = config.optim = ml_collections.ConfigDict()
    optim.optimizer = "Adam"
    optim.lr = 2e-4
    optim.beta1 = 0.9
    optim.beta2 = 0.999
    optim.eps = 1e-8
    optim.weight_decay = 0.0
    optim.warmup = 5000
    optim.grad_clip = 1.0
    optim.nan_to_num = False  # replace NaN in gradients by 0 and infinity by 1e5 (EDM)
    return config


def check_variant(variant: str, variants: tuple[str, ...]) -> None:
    """Raises ValueError, with the nearest name, unless `variant` is one of `variants`."""
    if variant not in variants:
        near = difflib.get_close_matches(variant, variants, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"variant {variant!r} is unknown: {hint}choose one of {variants}")
