"""What every experiment starts from. Sections and fields are those of score_sde's configs."""

import difflib
from typing import Any

import ml_collections
from ml_collections import config_dict

Config = Any  # an ml_collections.ConfigDict: a type checker cannot know its fields


def get_config() -> Config:
    """Defaults; a config file states its differences."""
    config: Config = ml_collections.ConfigDict()
    config.seed = 42

    own = config_dict.placeholder  # None: the method's own

    mesh = config.mesh = ml_collections.ConfigDict()  # devices of all hosts; batches go to all
    mesh.data = -1  # rows of devices, each with a copy of the state; -1: what fsdp leaves
    mesh.fsdp = 1  # devices in a row, which share the state out among them

    training = config.training = ml_collections.ConfigDict()
    training.sde = "vpsde"  # or "vesde", "subvpsde", "edm", "cosine", "sigmoid", "linear", "flow",
    # "log_linear", "cld"
    training.continuous = True
    training.n_iters = 1_300_001
    training.batch_size = 128
    training.n_microbatches = 1  # parts of a batch, in turn: less memory, n gradients to add up
    training.steps_per_jit = 1  # steps in one program: less to wait for the host, on accelerators
    training.log_freq = 50  # steps between lines of metrics
    training.snapshot_freq = 50_000  # steps between pictures, and checkpoints that stay
    training.snapshot_freq_for_preemption = 10_000  # steps between checkpoints to go on from
    training.eval_freq = 5_000  # steps between losses on held-out data
    training.max_skipped = 10  # steps in a row with a loss or gradient not finite, then it stops
    training.stall_seconds = 300.0  # without a step, then a warning
    training.likelihood_weighting = False  # g^2 in place of sigma^2
    training.importance_sampling = False  # of t, with likelihood_weighting
    training.stratified = False  # one t in each of batch_size strata
    training.reduce_mean = False  # mean over dimensions in place of half the sum
    training.noise_density = "uniform"  # of t; or of the noise level (sde_lib/noise_density.py)
    training.noise_mean = -1.2  # of the logarithm of sigma / alpha, in "log_normal"
    training.noise_std = 1.2
    training.noise_std_above = 1.2  # above the mean, in "split_log_normal"
    training.weighting = "variance"  # or "edm" and others (sde_lib/weighting.py)
    training.weighting_bias = 2.0  # of "sigmoid"
    training.objective = "denoising"  # "explicit", "sliced", "sliced_vr", "hybrid", "vlb" or "vdm"
    training.n_projections = 1  # of a sample, in "sliced" and "sliced_vr"
    training.vlb_weight = 1e-3  # of the bound, in "hybrid"
    training.loss_history = 0  # losses of each level that t is drawn by; 0: it is not
    training.soft_truncation = own(float)  # k of a batch's smallest time, of density 1 / time^k
    training.input_perturbation = 0.0  # extra noise in the network's input alone; published: 0.1

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
    sampling.rtol = own(float)  # of the adaptive methods
    sampling.atol = own(float)
    sampling.step_size = own(float)  # of "annealed_langevin"
    sampling.grid = own(str)  # a name in samplers.noise_levels.GRIDS
    sampling.rho = own(float)  # of the grids "karras" and "polyexponential"
    sampling.sigma_max = own(float)  # noise levels sigma / alpha to start from, None: the SDE's,
    sampling.sigma_min = own(float)  # and to end at
    sampling.eta = own(float)  # how much noise the steps add: 0 for none
    sampling.order = own(int)
    sampling.variant = own(str)  # of "unipc": "bh1" or "bh2"
    sampling.variance = own(str)  # of "ddpm": "beta", "posterior", "learned" or "analytic"
    sampling.alpha = own(float)  # of "heun" and "edm": 1 is Heun's method, 0.5 the midpoint's
    sampling.s_churn = own(float)  # of "edm", "euler" and "dpm_2": noise before a step,
    sampling.s_tmin = own(float)  # between these noise levels,
    sampling.s_tmax = own(float)
    sampling.s_noise = own(float)  # and its standard deviation
    sampling.label = -1  # the class to guide to, or of a model with classes; -1: all in turn
    sampling.prompt = ""  # of a model with text; "": the captions of the test set
    sampling.negative_prompt = ""
    sampling.embeddings = ""  # of a model with embeddings: a file of "prompt" and "negative_prompt"
    sampling.low_res = ""  # of a super-resolution model: the folder of a run to take images from
    sampling.low_res_noise = 0.0  # that they are given
    sampling.confidence = 1.0  # in that class, of a model with label_confidence
    sampling.cfg_weight = 1.0  # classifier-free guidance: 1 is the class alone, 0 leaves it out
    sampling.negative_label = -1  # the class to keep away from; -1: none
    sampling.negative_terms = 3  # of that: 3 with the score without a class, 2 without
    sampling.classifier = ""  # the folder of a trained one, which guides
    sampling.guidance_weight = 1.0  # of its gradient
    sampling.guidance_schedule = "constant"  # of both weights (samplers/guidance_schedules.py)
    sampling.schedule_low = own(float)  # "interval": guides between these noise levels
    sampling.schedule_high = own(float)
    sampling.schedule_least = own(float)  # "clamp_linear": the least weight
    sampling.schedule_power = own(float)  # "power_cosine"
    sampling.discriminator = ""  # the folder of a trained one, which guides
    sampling.dg_weight_1st_order = 1.0  # of its gradient, in a step's first evaluation,
    sampling.dg_weight_2nd_order = 0.0  # and in the others
    sampling.dg_boost = False  # twice where it takes the sample for a fake
    sampling.dg_sigma_min = own(float)  # noise levels at which it guides; None: the published
    sampling.dg_sigma_max = own(float)
    sampling.eps_scale = 1.0  # what the predicted noise is divided by, at t = 0
    sampling.eps_scale_slope = 0.0  # its change with t
    sampling.eps_scale_guided = False  # divide the guided noise; otherwise what is then guided
    sampling.time_shift_window = 0.0  # how far in t the network's time may follow the variance
    sampling.time_shift_cutoff = 0.0  # the least t for that

    evaluation = config.eval = ml_collections.ConfigDict()
    evaluation.batch_size = 256
    evaluation.rtol = 1e-5
    evaluation.atol = 1e-5
    evaluation.probe = "rademacher"  # "gaussian", or "exact" for few dimensions
    evaluation.n_probes = 1
    evaluation.n_repeats = 1  # passes over the test set, each dequantised anew
    evaluation.checkpoints = "last"  # or "all"
    evaluation.enable_loss = True
    evaluation.enable_bpd = True
    evaluation.enable_bound = False  # the variational bound, term by term,
    evaluation.bound_steps = 1000  # of so many steps
    evaluation.enable_sampling = True
    evaluation.num_samples = 50_000
    evaluation.features = ""  # Inception's weights, a .pth or .npz file; "": random features

    edit = config.edit = ml_collections.ConfigDict()
    edit.task = "inpaint"  # "colorize", "variations", "reconstruct" or "interpolate"
    edit.n_images = 8  # the first of the test set
    edit.n_results = 6  # for each image, or between two
    edit.mask = "left"  # what inpainting is given: "left" half, or all but the "centre"
    edit.strength = 0.3  # of variations: 0 changes nothing, 1 everything
    edit.n_iterations = 3  # of conjugate gradients, for inpainting and colorizing

    detect = config.detect = ml_collections.ConfigDict()
    detect.n_images = 256  # real ones, and as many samples
    detect.n_steps = 20  # of Euler's method, there and back

    exposure = config.exposure_bias = ml_collections.ConfigDict()
    exposure.solvers = ("euler", "heun")
    exposure.nfe = (13, 21, 35)  # network evaluations a sample
    exposure.n_samples = 1000

    ablate = config.ablate = ml_collections.ConfigDict()
    ablate.solvers = ("euler", "heun")
    ablate.nfe = (13, 21, 35)
    ablate.weights = (1.0, 1.67, 2.5)  # of the discriminator's guidance
    ablate.scales = (1.0004, 1.005, 1.02, 1.05)  # of the predicted noise
    ablate.n_samples = 2000
    ablate.n_seeds = 3  # sample sets that the figures are of, beside the one for choosing

    data = config.data = ml_collections.ConfigDict()
    data.dataset = ""
    data.path = ""  # of cifar10, folder, npz and huggingface: a file, a folder or a name
    data.cache = "~/.cache/score-sde-jax"  # keeps what is downloaded or rendered
    data.resident_bytes = 2**30  # the most of a data set that lives on every device
    data.test_fraction = 0.1  # of data that come without a test set
    data.image_size = 32
    data.num_channels = 3
    data.num_classes = 0  # of labelled data
    data.autoencoder = ""  # the folder of a trained one, in whose latents all of this happens
    data.embeddings = ""  # of the captions: an .npz file of arrays "train" and "test"
    data.confidence = ""  # the folder of a classifier, whose trust in the labels is learned from
    data.generated = ""  # of a discriminator: the .npz file that mode generate made
    data.centered = True  # in [-1, 1]; otherwise [0, 1]
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
    model.sigma_data = 0.5  # the data's standard deviation, of the parametrization "edm"
    model.ema_rate = 0.9999
    model.ema_halflife = 0.0  # of the average, in images, in place of ema_rate if positive
    model.ema_rampup = 0.05  # of the images so far: the most that ema_halflife may be
    model.nf = 128
    model.num_res_blocks = 4
    model.class_conditional = False  # the network sees which of data.num_classes an image is of
    model.label_dropout = 0.0  # probability, in training, that it does not
    model.label_confidence = False  # it also sees how sure that class is
    model.text = ""  # captions that the network sees: "bytes", or "embeddings" of data.embeddings
    model.text_length = 64  # of a caption at most, in bytes
    model.text_width = 128
    model.text_depth = 2  # blocks of the transformer that reads them
    model.low_res_size = 0  # of images that the network makes larger, 0 for none
    model.low_res_noise = 0.0  # the most that they are given in training
    model.learned_variance = False  # the network also gives that of a step of DDPM's chain
    model.learned_schedule = False  # of "vdm": otherwise log-SNR is linear in t
    model.gamma_min = -13.3  # -log-SNR at t = 0 of the SDE "log_linear",
    model.gamma_max = 5.0  # and at t = 1
    model.fourier_features = ()  # n of sin and cos(2^n pi x), which the network sees beside x
    model.cld_beta = 4.0  # of the SDE "cld": its pace,
    model.cld_mass = 0.25
    model.cld_gamma = 0.04  # and the variance of velocities at t = 0, in masses
    model.encoder = "wideresnet"  # of a "discriminator": the network below its head
    model.pretrained = ""  # the folder of the run whose weights that has, frozen; "": learn them
    model.augment_dim = 0  # augmentation labels that the network sees; EDM: 9
    model.dtype = "float32"  # of activations: "bfloat16" is faster on accelerators
    model.remat = False  # train with less memory (but not on CPU), in more time

    autoencoder = config.autoencoder = ml_collections.ConfigDict()  # of model.name = "autoencoder"
    autoencoder.latent_channels = 4
    autoencoder.regularization = "kl"  # or "vq"
    autoencoder.kl_weight = 1e-6
    autoencoder.codebook_size = 512
    autoencoder.commitment = 0.25
    autoencoder.perceptual = ""  # a file of Inception's weights, or the folder of a classifier
    autoencoder.perceptual_weight = 1.0
    autoencoder.adversarial_weight = 0.0  # of the patch discriminator,
    autoencoder.adversarial_start = 0  # from this step on

    optim = config.optim = ml_collections.ConfigDict()
    optim.optimizer = "Adam"
    optim.lr = 2e-4
    optim.beta1 = 0.9
    optim.beta2 = 0.999
    optim.eps = 1e-8
    optim.weight_decay = 0.0
    optim.warmup = 5000
    optim.grad_clip = 1.0
    optim.nan_to_num = False  # gradients: NaN counts as 0, infinity as 1e5 (EDM)
    return config


def check_variant(variant: str, variants: tuple[str, ...]) -> None:
    """Raises ValueError, naming the nearest, unless variant is one of variants."""
    if variant not in variants:
        near = difflib.get_close_matches(variant, variants, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"variant {variant!r} is unknown: {hint}choose one of {variants}")
