"""The defaults of every experiment.

Sections and fields are score_sde's where it has them. A section holds the options of a component:
`name`, `method`, `task` or `run` chooses it, and None leaves an option at the component's default.
An option of a component that is not chosen is refused. The site (docs/) lists renamed fields.
"""

import difflib
from typing import Any

import ml_collections
from ml_collections import config_dict

Config = Any  # an ml_collections.ConfigDict: a type checker cannot know its fields
Section = ml_collections.ConfigDict
default = config_dict.placeholder  # None: the component's default
Part = dict[str, Any]
"""Values of fields by their full names, such as {"model.nf": 128}."""
LEFT_OUT = object()
"""The value of a part's field that removes it from the parts before."""


def get_config() -> Config:
    """The defaults; a config file changes what differs."""
    config: Config = Section()
    config.seed = 42
    for add in SECTIONS:
        add(config)
    return config


def _mesh(config: Config) -> None:
    """The grid of all hosts' devices."""
    mesh = config.mesh = Section()
    mesh.data = -1  # groups of devices, each with a copy of the state; -1: all devices / fsdp
    mesh.fsdp = 1  # devices of a group, over which the state is sharded


def _training(config: Config) -> None:
    """Training: the SDE, sizes, periods and limits."""
    training = config.training = Section()
    training.sde = "vpsde"  # or "vesde", "subvpsde", "edm", "cosine", "sigmoid", "linear", "flow",
    # "log_linear", "geometric_vp", "brownian", "cld", "chain"; config.model has their numbers, as
    # in score_sde
    training.continuous = True  # False: at config.model.num_scales noise levels
    training.init_from = ""  # fine-tuning: a new run begins with the EMA weights of this run
    # or published file
    training.n_iters = 1_300_001
    training.batch_size = 128  # samples a step, over all devices
    training.n_microbatches = 1  # parts of a batch, one after the other, to save memory
    training.steps_per_jit = 1  # steps in one program, so that accelerators do not wait for Python
    training.log_freq = 50  # steps between lines of metrics
    training.snapshot_freq = 50_000  # steps between pictures, and between checkpoints kept for good
    training.snapshot_freq_for_preemption = 10_000  # steps between checkpoints to resume from
    training.eval_freq = 5_000  # steps between evaluations on held-out data
    training.ema_freq = 0  # steps between snapshots of the averages, with model.ema_profile =
    # "power"; 0: 1/32 of n_iters
    training.quality_freq = 0  # steps between evaluations of sample quality; 0: none
    training.at_end = ("likelihood", "accuracy", "reconstruction", "pictures")  # reports after the
    # last step: each task makes those that it has; also "quality", of vectors "baselines", and
    # of fields "spectrum"
    training.sinks = ("jsonl", "tensorboard")  # where metrics are written; also "wandb"
    training.max_skipped = 10  # stop after so many steps in a row that are not finite
    training.stall_seconds = 300.0  # warn of a step that takes longer
    training.device_watts = default(float)  # power of a device, for the energy in the model card
    training.likelihood_weighting = False  # weight the loss by g^2 in place of sigma^2
    training.importance_sampling = False  # of t: with likelihood_weighting or "cross_entropy"
    training.reduce_mean = False  # the loss is a mean over dimensions in place of half the sum


def _objective(config: Config) -> None:
    """The training objective."""
    objective = config.objective = Section()
    objective.name = "denoising"  # or "explicit", "sliced", "sliced_vr", "hybrid", "vlb", "vdm",
    # "cross_entropy"; "consistency" or "mean_flow", whose models sample in few steps
    objective.stratified = False  # one t in each of batch_size strata
    objective.soft_truncation = default(float)  # exponent k: a batch's least t has density 1 / t^k
    objective.input_perturbation = default(float)  # extra noise of the network's input, say 0.1
    objective.log_variance = default(int)  # learn the log variance of the loss, in "denoising":
    # number of Fourier features of the noise level (EDM2: 128)
    objective.bridge = default(bool)  # train bridges, in "denoising": noisy states lie on paths
    # of the SDE between a sample and its source, or coupled noise
    objective.n_projections = default(int)  # for each sample, in "sliced" and "sliced_vr"
    objective.vlb_weight = default(float)  # weight of the bound, in "hybrid"
    objective.loss_history = default(int)  # losses kept of each level, by which t is drawn
    objective.teacher = ""  # distillation, in "consistency": the run of the teacher
    objective.stage_steps = default(int)  # steps after which the two levels come closer: 1000
    objective.first_stage = default(int)  # 0 begins by denoising, 1 suits trained weights
    objective.last_stage = default(int)  # number of the last stage: 8
    objective.huber = default(float)  # constant of the loss for one dimension: 0.00054
    objective.interval_share = default(float)  # of "mean_flow": share of samples with r < t, 0.25
    objective.power = default(float)  # of its adaptive weight: 1


def _noise_density(config: Config) -> None:
    """The density of noise levels in training."""
    density = config.noise_density = Section()
    density.name = "uniform"  # in t; or a name in sde_lib/noise_density.py
    density.mean = default(float)  # of log(sigma / alpha)
    density.std = default(float)
    density.std_above = default(float)  # above the mean, in "split_log_normal"


def _coupling(config: Config) -> None:
    """The coupling of data and noise in training."""
    coupling = config.coupling = Section()
    coupling.name = ""  # independent; "assignment", of least distance; or "sinkhorn", entropic
    coupling.group = default(int)  # samples that are coupled with each other: 64
    coupling.entropy = default(float)  # of "sinkhorn": 0.05 times half the mean of |x - z|^2


def _source(config: Config) -> None:
    """Samples from which paths start, in place of normal noise."""
    source = config.source = Section()
    source.name = ""  # noise; "samples", of a data set of their own; "pairs", a row beside each
    # sample, the array "source" of config.data.conditions; "image", that of image_condition;
    # "reflow", samples of another model in place of the data, each with its noise
    source.dataset = default(str)  # of "samples": as data.dataset
    source.path = default(str)  # of "samples" as data.path; of "reflow" a file of --mode=generate


def _weighting(config: Config) -> None:
    """The weighting of the loss over noise levels."""
    weighting = config.weighting = Section()
    weighting.name = "variance"  # or a name in sde_lib/weighting.py
    weighting.bias = default(float)  # of "sigmoid"
    weighting.variance = default(str)  # of "elbo", the bound of discrete training: of its steps,
    # "beta" or "posterior"


def _sampling(config: Config) -> None:
    """Sampling: the samples, their conditions, the sampler and its options."""
    sampling = config.sampling = Section()
    sampling.method = "predictor_corrector"  # a name in samplers.SAMPLERS
    sampling.n_samples = 64
    sampling.batch_size = 64  # samples at a time; 0: as many as fit the memory
    sampling.single = False  # mode sample also writes a PNG file for each sample,
    sampling.arrays = False  # and an .npz file of all
    sampling.pairs = False  # mode generate also keeps the noise of each sample, for "reflow"
    sampling.label = -1  # the class to draw or to guide to; -1: all in turn
    sampling.labels = ()  # several classes, in turn
    sampling.prompt = ""  # of a model with text, one a line; "": captions of the test set
    sampling.embeddings = ""  # of a model with embeddings: a file of "prompt", "negative_prompt"
    sampling.condition = ""  # a file of the conditions to draw samples for, in turn: .npy, .csv, or
    # .npz by kind ("class", "vector", ...); "": those of the test set
    sampling.confidence = default(float)  # in the class or prompt, of a model with label_confidence
    sampling.low_res = ""  # of a super-resolution model: the run of the smaller images
    sampling.low_res_noise = 0.0  # standard deviation of the noise that is added to these
    sampling.n_steps = default(int)  # 1000 of "predictor_corrector", 18 of "edm", ...
    sampling.predictor = default(str)  # of "predictor_corrector": "reverse_diffusion",
    # "ancestral_sampling", "euler_maruyama" or "none"
    sampling.corrector = default(str)  # of "predictor_corrector": "none", "langevin", "ald", or
    # "mala" of a model with parametrization = "energy"
    sampling.n_steps_each = default(int)  # corrector steps at each time
    sampling.snr = default(float)  # of the corrector: 0.16
    sampling.noise_removal = default(bool)  # end with the mean E[x_0 | x]: True
    sampling.probability_flow = default(bool)  # the predictor follows the flow, without noise
    sampling.rtol = default(float)  # of the adaptive methods
    sampling.atol = default(float)
    sampling.log_prob = default(bool)  # of "probability_flow": log densities in the .npz file too
    sampling.probe = default(str)  # for these: "exact" (up to 64 dimensions), "hierarchical", ...
    sampling.n_probes = default(int)  # 1
    sampling.step_size = default(float)  # of "annealed_langevin"
    sampling.grid = default(str)  # a name in samplers.noise_levels.GRIDS, or a file of study "grid"
    sampling.rho = default(float)  # of the grids "karras" and "polyexponential"
    sampling.sigma_max = default(float)  # first noise level sigma / alpha
    sampling.sigma_min = default(float)  # last noise level
    sampling.eta = default(float)  # share of the noise that a step adds: 0 for none
    sampling.diffusion = default(str)  # of "free_diffusion": "constant", "sigma", "sine", "bump"
    sampling.order = default(int)
    sampling.variant = default(str)  # of "unipc": "bh1" or "bh2"
    sampling.clip = default(float)  # of "ddim": the largest absolute value of the estimate of x_0
    sampling.variance = default(str)  # of "ddpm": "beta", "posterior", "learned" or "analytic"
    sampling.shift_window = default(float)  # of "euler", "heun", ...: steps begin at the time that
    # fits the variance of the sample, within this interval of t
    sampling.shift_cutoff = default(float)  # the least t for that
    sampling.alpha = default(float)  # of "heun" and "edm": 1 is Heun's method, 0.5 the midpoint's
    sampling.s_churn = default(float)  # of "edm", "euler" and "dpm_2": noise before a step
    sampling.s_tmin = default(float)  # least noise level of the churn
    sampling.s_tmax = default(float)
    sampling.s_noise = default(float)  # standard deviation of the churn's noise


def _guidance(config: Config) -> None:
    """Guidance of samples, a section for each kind."""
    guidance = config.guidance = Section()
    free = guidance.classifier_free = Section()
    free.weight = default(float)  # 1: the conditional score alone, 0: the unconditional one
    free.negative_label = default(int)  # a class to guide away from
    free.negative_prompt = default(str)  # a text to guide away from
    free.negative_terms = default(int)  # scores to combine: 3, or 2 without the unconditional
    free.channels = default(int)  # guide only the first ones: all; DiT was published with 3
    auto = guidance.auto = Section()  # guidance by a worse model of the same data
    auto.run = ""  # the worse model's run; "": the same run, at the step or length below
    auto.step = default(int)  # the training step of its checkpoint: the last
    auto.ema_length = default(float)  # another length of the EMA, see eval.ema_length
    auto.weight = default(float)  # 2; 1: the model alone
    form = guidance.form = Section()  # of classifier-free guidance and autoguidance
    form.name = "linear"  # a name in samplers.guidance.FORMS
    form.phi = default(float)  # of "rescale": share of the rescaled estimate of x_0, 0.7
    form.eta = default(float)  # of "projected": factor of the part along the estimate of x_0, 0
    form.threshold = default(float)  # of "projected": largest norm of the estimates' difference
    classifier = guidance.classifier = Section()
    classifier.run = ""  # the folder of a trained classifier
    classifier.weight = default(float)
    discriminator = guidance.discriminator = Section()
    discriminator.run = ""  # the folder of a trained discriminator
    discriminator.step = default(int)  # the training step of its checkpoint: the last
    discriminator.weight = default(float)  # in the first evaluation of a step
    discriminator.weight_2nd_order = default(float)  # in the others
    discriminator.boost = default(bool)  # double the weight where the sample looks generated
    discriminator.sigma_min = default(float)  # noise levels at which it guides
    discriminator.sigma_max = default(float)
    scaling = guidance.epsilon_scaling = Section()  # of the predicted noise, divided by b(t)
    scaling.scale = default(float)  # b at t = 0
    scaling.slope = default(float)  # change of b with t
    scaling.step_slope = default(float)  # change of b with the number of the sampler's step
    scaling.guided = default(bool)  # divide the noise after the discriminator's guidance
    shift = guidance.time_shift = Section()
    shift.window = default(float)  # how far in t the network's time may follow the variance
    shift.cutoff = default(float)  # the least t for that
    clip = guidance.clip = Section()  # of the estimate of x_0
    clip.limit = default(float)  # largest absolute value of the estimate of x_0: 1 in DDPM
    schedule = guidance.schedule = Section()  # of classifier-free, classifier and autoguidance
    schedule.name = "constant"  # a name in samplers.guidance.SCHEDULES
    schedule.power = default(float)  # of "power_cosine"
    schedule.least = default(float)  # of any schedule: the weight is clamped to [least, most],
    schedule.most = default(float)
    schedule.offset = default(float)  # then this is added,
    schedule.low = default(float)  # and it guides between these noise levels alone,
    schedule.high = default(float)
    schedule.removed = default(bool)  # or at all others


def _eval(config: Config) -> None:
    """Evaluation: likelihoods, bounds and sample quality."""
    evaluation = config.eval = Section()
    evaluation.batch_size = 256
    evaluation.accuracy = default(float)  # of likelihoods: the solver's error in bits/dim, 0.001
    evaluation.rtol = default(float)  # tolerances of an adaptive solver, in place of the accuracy
    evaluation.atol = default(float)
    evaluation.probe = "hierarchical"  # or "rademacher", "gaussian"; "exact" for few dimensions
    evaluation.n_probes = 1
    evaluation.n_repeats = 1  # passes over the test set, each with other noise
    evaluation.checkpoints = "last"  # or "all"
    evaluation.enable_loss = True
    evaluation.enable_bpd = True
    evaluation.enable_bound = False  # the variational bound, term by term
    evaluation.bound_steps = 1000
    evaluation.enable_sampling = True  # sample quality
    evaluation.num_samples = 50_000
    evaluation.n_seeds = 1  # sets of so many samples, each of a seed; their means are printed
    evaluation.features = ""  # Inception's weights, a .pth or .npz file; "": random features
    evaluation.statistics = ""  # published ones of the data, mu and sigma, for FID without data
    evaluation.ema_length = ()  # of a run with model.ema_profile = "power": the length of the
    # average of the weights; several in mode evaluate; (): the first of model.ema_lengths
    evaluation.metrics = ()  # further ones: "class_quality", "class_likelihood", "alignment"
    evaluation.embeddings = ""  # of "alignment": a file of embeddings of the captions


def _edit(config: Config) -> None:
    """Mode edit: the images, the task and its options."""
    edit = config.edit = Section()
    edit.task = "inpaint"  # or "outpaint", "colorize", "super_resolution", "deblur", "variations",
    # "reconstruct", "interpolate", "impute"
    edit.images = ""  # image files or folders, with commas between them; "": the test set
    edit.n_images = 8  # the first of the test set
    edit.crop = "center"  # cuts images to the model's aspect ratio; "none" squeezes them
    edit.filter = "lanczos"  # of the resizing; or "bicubic", "bilinear", "hamming", "box"
    edit.background = "white"  # behind transparent pixels: the name of a colour, or #rrggbb
    edit.n_results = default(int)  # for each image, or between two: 6
    edit.strength = default(float)  # share of the sampler's steps that are made: 0 changes nothing,
    # 1 everything; 0.3 in "variations", 1 in others
    edit.noise_level = default(float)  # sigma / alpha of the start, in place of a strength
    edit.mask = default(str)  # of "inpaint": the known part, "left" or all but the "centre";
    # or an image file, white where new content is wanted
    edit.mask_grow = default(int)  # pixels by which the mask grows
    edit.mask_blur = default(float)  # standard deviation of the mask's blur in pixels
    edit.content = default(str)  # start of the new part: "fill", "original", "noise"
    edit.only_masked = default(bool)  # edit the part around the mask, at the model's resolution
    edit.padding = default(int)  # pixels around the mask in that part: 8
    edit.extend = ()  # of "outpaint": pixels at the (top, right, bottom, left)
    edit.overlap = default(float)  # of "outpaint": share of a window that the next covers: 0.5
    edit.factor = default(int)  # of "super_resolution": 2
    edit.blur = default(float)  # of "deblur": standard deviation in pixels, 1
    edit.degrade = default(bool)  # blur, or make smaller, the images first: True for the test set
    edit.noise_std = default(float)  # standard deviation of the measurement's noise
    edit.posterior = default(str)  # a name in samplers.posterior.METHODS: "moment_matching"
    edit.n_iterations = default(int)  # of conjugate gradients: 1 in "impute", 3 otherwise
    edit.step_size = default(float)  # of "dps"
    edit.data_std = default(float)  # of "pigdm" and "twisted_smc"
    edit.n_particles = default(int)  # of "twisted_smc"
    edit.resample_below = default(float)


def _serve(config: Config) -> None:
    """Mode serve: where the page is."""
    serve = config.serve = Section()
    serve.host = "127.0.0.1"  # this machine alone; "0.0.0.0": whoever reaches it
    serve.port = 7860


def _detect(config: Config) -> None:
    """Mode detect."""
    detect = config.detect = Section()
    detect.n_images = 256  # real ones, and as many suspected ones
    detect.n_steps = 20  # of Euler's method, there and back
    detect.statistics = ("reconstruction", "noise_loss", "classifier")  # and "likelihood"
    detect.weighting = ""  # of "noise_loss", a name in sde_lib/weighting.py; "": equal weights
    detect.distortions = ("none",)  # "jpeg", "resize", "blur", of both sets
    detect.real = ""  # files and folders of real images, with commas; "": the test set
    detect.suspected = ""  # likewise, a source for each; "": samples of the model


def _benchmark_solvers(config: Config) -> None:
    """Mode benchmark_solvers."""
    benchmark = config.benchmark_solvers = Section()
    benchmark.solvers = ()  # names in samplers.SAMPLERS; (): all but those of few steps
    benchmark.nfe = (5, 10, 20, 50, 100)  # network evaluations a sample


def _exposure_bias(config: Config) -> None:
    """Mode exposure_bias."""
    exposure = config.exposure_bias = Section()
    exposure.solvers = ("euler", "heun")
    exposure.nfe = (13, 21, 35)  # network evaluations a sample
    exposure.n_samples = 1000


def _ablate(config: Config) -> None:
    """Mode ablate."""
    ablate = config.ablate = Section()
    ablate.solvers = ("euler", "heun")
    ablate.nfe = (13, 21, 35)
    ablate.weights = (1.0, 1.67, 2.0, 3.0, 4.0)  # of the discriminator's guidance
    ablate.scales = (1.0004, 1.005, 1.02, 1.05, 1.1, 1.2)  # of the predicted noise
    ablate.step_slopes = ()  # of an arm of its own: changes of the scale with the step,
    ablate.slopes = ()  # and with t; neither: no such arm
    ablate.windows = ()  # of an arm of its own: widths in t of the solver's time shift,
    ablate.cutoffs = (0.0,)  # above these times
    ablate.input_perturbation = ""  # of an arm of its own: the run of a model trained with it
    ablate.n_samples = 2000  # in a set to choose by
    ablate.n_report = default(int)  # in a set that is reported: as many
    ablate.n_seeds = 3  # sample sets that are reported, beside the one for choosing
    ablate.n_shown = 8  # samples of each arm in a picture, from the same noise; 0: no picture


def _study(config: Config) -> None:
    """Mode study: the study and its options."""
    study = config.study = Section()
    study.name = ""  # "posterior", samplers of a posterior, on mixtures or on the images of a run;
    # "guidance", on points or by a run; "autoguidance", on points; "memorisation", of a run;
    # "discriminator", what its guidance gains; "one_step", the error of one reverse step; "grid",
    # noise levels that fit a run; or the pictures "forward", "schedules", "trajectories" and
    # "langevin"
    guidance = study.guidance = Section()
    guidance.weights = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)  # 1: the conditional score
    guidance.schedules = ("constant",)  # of a run; with the options of config.guidance.schedule
    guidance.intervals = ()  # of a run: noise levels (low, high) between which a schedule guides,
    # or (low, high, True) outside of which it does; (): those of config.guidance.schedule
    guidance.solvers = ()  # names; (): "heun", and of points "euler_ancestral"
    guidance.nfe = ()  # guided evaluations of the network a sample; (): 35, or 99 of points
    guidance.n_samples = default(int)  # in a set: 1000, or 2000 of points
    guidance.n_seeds = 3  # sets of each setting
    guidance.classifier = ""  # the run of an independent classifier, that judges the samples
    guidance.negatives = ()  # prompts or classes to guide away from, of another grid of images
    auto = study.autoguidance = Section()
    auto.weights = (1.5, 2.0, 3.0)  # 1: the model alone
    auto.n_samples = 4000  # in a set
    auto.n_seeds = 3  # sets of each setting
    auto.n_iters = 4096  # of the trained networks; 0: none, exact scores alone
    grid = study.grid = Section()
    grid.solvers = ("euler", "dpmpp_2m")
    grid.nfe = (6, 8, 10, 12, 18)  # network evaluations a sample
    grid.order = 1  # of the local errors: 1, or 2
    grid.n_fine = 100  # steps of the fine solution, between whose levels the grids choose
    grid.n_samples = 128  # trajectories
    memorisation = study.memorisation = Section()
    memorisation.n_samples = 1000
    memorisation.level = 0.01  # share of the held-out data that are nearer than the threshold
    posterior = study.posterior = Section()
    posterior.methods = ("moment_matching", "pigdm", "dps", "replacement", "twisted_smc")
    posterior.solvers = ("euler_ancestral",)
    posterior.nfe = (50, 200)  # network evaluations a sample, before derivatives and particles
    posterior.dims = (2, 8, 64)  # of the mixtures
    posterior.n_measurements = default(int)  # 4 of a mixture; or 16 test images
    posterior.n_samples = default(int)  # for each measurement: 500, or 19 of an image
    posterior.noise_std = default(float)  # of the measurements: 0.3, or 0.1 of images
    posterior.operators = ()  # of images: left_half, half_size, blur, grey; (): the first two
    gain = study.discriminator = Section()
    gain.weights = (0.5, 1.0, 1.67, 2.0)  # of guidance, on mixtures
    gain.steps = ()  # checkpoints of the discriminator; (): all
    gain.solver = "heun"
    gain.nfe = 35
    gain.n_samples = 2000  # guided samples of each checkpoint
    gain.n_data = 1000  # test samples that the gain is measured on
    step = study.one_step = Section()
    step.n_levels = 18  # noise levels of EDM's grid, between which steps are made
    step.n_samples = 1000
    _pictures(study)


def _pictures(study: Section) -> None:
    """Studies that draw what the papers draw."""
    forward = study.forward = Section()
    forward.sdes = ("vpsde", "subvpsde", "vesde", "flow")  # a row each
    forward.n_times = 6  # from 0 to t_max
    forward.n_images = 1  # the first of the test set
    schedules = study.schedules = Section()
    schedules.n_levels = 1000  # of the chains
    ways = study.trajectories = Section()
    ways.steps = 500  # of the reverse SDE
    ways.n_samples = 2000
    ways.n_paths = 12  # in the picture
    langevin = study.langevin = Section()
    langevin.n_iters = 1500  # training steps of the score
    langevin.n_samples = 1000


def _data(config: Config) -> None:
    """The data set."""
    data = config.data = Section()
    data.dataset = ""  # a name in experiments/data/sources
    data.path = ""  # of cifar10, folder, npz and huggingface: a file, a folder or a name
    data.cache = "~/.cache/score-sde-jax"  # keeps downloaded and rendered data
    data.auto = False  # numbers of the noise that are left at their defaults are taken from the
    # data, as --mode=inspect advises them
    data.resident_bytes = 2**30  # data of at most this size are kept on every device
    data.test_fraction = 0.1  # of data without a test set
    data.first_frame = False  # take the first of several pages or frames of an image file
    data.max_unreadable = 0.0  # share of image files that may be unreadable: they are left out;
    # and of samples whose files may vanish during training: others take their places
    data.shape = ()  # of a sample: (H, W, C) of images, (L, C) of series, (D, H, W, C) of volumes,
    # (D,) of vectors; (): square images, of
    data.image_size = 32  # pixels a side, and
    data.num_channels = 3
    data.dtype = ""  # the values of arrays: "uint8", "uint16" (grey levels) or "float"
    data.missing = ""  # NaN, and masks beside arrays: "" refuses them; "mask": missing values
    data.hidden_fraction = 0.5  # with "mask": the share of training samples of which a random
    # part of the observed values is hidden too
    data.label_column = ""  # of a table, whose values are the classes
    data.condition_columns = ()  # of a table, that are not data but the vector of a condition
    data.attribute_columns = ()  # of a table, whose values are the classes of attributes
    data.caption_column = ""  # of a table, whose texts are captions
    data.conditions = ""  # a file of conditions beside the data: .npz by kind ("vector", "image",
    # "attributes", "embeddings", "text"), or captions a line each, .txt or .jsonl
    data.num_classes = 0  # of labelled data
    data.autoencoder = ""  # the folder of a trained one, whose latents are the data
    data.latent_mean = ()  # mean of each channel of the latents; (): the training set's
    data.latent_std = ()  # likewise, the standard deviation
    data.embeddings = ""  # of the captions: an .npz file of arrays "train" and "test"
    data.confidence = ""  # the folder of a classifier, for confidences of the labels
    data.least_confidence = default(float)  # training samples below it are left out
    data.generated = ""  # of a discriminator: the .npz file that mode generate made
    data.generated_test_fraction = default(float)  # share of these samples that is not trained on:
    # that of the data's own test set; 0: all are trained on
    data.centered = True  # scale to [-1, 1]; otherwise [0, 1]
    data.random_flip = False
    data.augment = 0.0  # probability of each of EDM's augmentations; needs model.augment_dim = 9
    data.uniform_dequantization = True


def _image_condition(config: Config) -> None:
    """Images that the network sees beside x."""
    image = config.image_condition = Section()
    image.name = ""  # "data": those that come with the data; or of x: "grey", "low_res", "masked"
    image.channels = default(int)  # of "data": as many as the data have
    image.factor = default(int)  # of "low_res": length of the sides of a block, 2
    image.mask = default(str)  # of "masked": "boxes" at random, or "left", whose half is known


def _plan(config: Config) -> None:
    """Mode plan."""
    plan = config.plan = Section()
    plan.program = "train"  # or "sample", "likelihood": a batch of a score model


def _prepare(config: Config) -> None:
    """Mode prepare: a data set of the image files in --data; data.test_fraction holds too."""
    prepare = config.prepare = Section()
    prepare.size = ()  # (height, width) or a side in pixels; (): that of the files, of one size
    prepare.crop = "center"  # "wide" and "tall": on a black square too; "none": squeezed
    prepare.filter = "lanczos"  # or "bicubic", "bilinear", "hamming", "box"; all antialiased
    prepare.channels = 3  # 1: grey
    prepare.background = "white"  # behind transparent pixels: the name of a colour, or #rrggbb
    prepare.table = ""  # labels and captions: a .csv (file, label, text) or .jsonl (file_name, ...)
    prepare.label_column = ""  # of the table; "": "label", "class", ...
    prepare.caption_column = ""  # of the table; "": "text", "caption", ...
    prepare.processes = 0  # 0: one for each core


def _model(config: Config) -> None:
    """The network, its conditions and the numbers of the SDE."""
    model = config.model = Section()
    model.name = "ncsnpp"
    model.sigma_min = 0.01  # of the SDE "vesde"
    model.sigma_max = 50.0
    model.beta_min = 0.1  # of the SDEs "vpsde" and "subvpsde"
    model.beta_max = 20.0
    model.beta_schedule = default(str)  # of the SDE "chain": "linear", "scaled_linear", "sigmoid"
    model.beta_start = default(float)  # from this beta, 1e-4,
    model.beta_end = default(float)  # to this, 0.02; or "cosine", "laplace"; or "explicit":
    model.betas = ()  # all of them, num_scales numbers
    model.zero_terminal_snr = default(bool)  # change them so that the last level has no signal
    model.gamma_min = default(float)  # -log-SNR at t = 0 of the SDE "log_linear": -13.3,
    model.gamma_max = default(float)  # and at t = 1: 5
    model.variance_min = default(float)  # sigma^2 at t = 0 of the SDE "geometric_vp": 3e-5,
    model.variance_max = default(float)  # and at t = 1: 0.999
    model.brownian_scale = default(float)  # of the SDE "brownian": standard deviation at t = 1
    model.cld_beta = default(float)  # of the SDE "cld": 4,
    model.cld_mass = default(float)  # 0.25,
    model.cld_gamma = default(float)  # and the variance of velocities at t = 0, in masses: 0.04
    model.num_scales = 1000  # noise levels of discrete training
    model.label_scale = 1.0  # factor of its noise labels
    model.parametrization = "score_sde"  # or a name in models/parametrization.py
    model.sigma_data = 0.5  # standard deviation of the data
    model.ema_profile = "exponential"  # of the average of the weights; or "power", of which any
    # length can be chosen after training (config.eval.ema_length)
    model.ema_lengths = (0.05, 0.1)  # of the profiles "power", as shares of the training; the first
    # is the model's
    model.ema_rate = 0.9999  # of "exponential": the share that a step keeps
    model.ema_halflife = 0.0  # of the average, in images; replaces ema_rate if positive
    model.ema_rampup = 0.05  # upper limit of ema_halflife, as a share of the images so far
    model.nf = 128
    model.num_res_blocks = 4
    model.class_conditional = False  # the network sees the class, of data.num_classes
    model.label_dropout = 0.0  # probability of the null condition in training
    model.label_confidence = False  # the network sees the confidence of the class or caption too
    model.text = ""  # captions: "bytes", or "embeddings" of data.embeddings
    model.text_length = 64  # largest number of bytes of a caption
    model.text_width = 128
    model.text_depth = 2  # blocks of the transformer that reads them
    model.vector_dim = 0  # numbers of the vector that the network sees; 0: none
    model.attributes = ()  # number of classes of each attribute that the network sees
    model.low_res_size = 0  # pixels a side of the smaller images of a super-resolution model
    model.low_res_noise = 0.0  # the largest noise on these in training
    model.learned_variance = False  # the network gives the variance of DDPM's step too
    model.learned_schedule = False  # of "vdm": otherwise log-SNR is linear in t
    model.fourier_features = ()  # n of sin and cos(2^n pi x), inputs of the network beside x
    model.periodic = False  # the data are periodic, as fields on a torus
    model.encoder = "wideresnet"  # of a "discriminator": the network below its head
    model.head = ""  # of a "discriminator": or "adm_classifier" on the encoder's features, with the
    # options of that network by names such as head_nf
    model.pretrained = ""  # the run whose weights the encoder has, frozen; "": trained too
    model.augment_dim = 0  # augmentation labels that the network sees; EDM: 9
    model.dtype = "float32"  # of activations: "bfloat16" is faster on accelerators
    model.remat = False  # recompute activations: less memory (but not on CPU), more time


def _latent(config: Config) -> None:
    """Latents that diffuse in place of the data, of a map that is trained with the score model."""
    latent = config.latent = Section()
    latent.name = ""  # "lsgm": an encoder and a decoder; "indm": a flow
    latent.nf = default(int)  # features of their hidden layers
    latent.num_res_blocks = default(int)  # of "lsgm": of each half, or of each level of images
    latent.ch_mult = ()  # likewise, of images: one for each level, each half as large: (1, 2)
    latent.attn_resolutions = ()  # likewise
    latent.channels = default(int)  # of the latents: 4 of images, as many numbers as vectors have
    latent.num_layers = default(int)  # coupling layers of "indm": 8; 0 is the identity


def _autoencoder(config: Config) -> None:
    """An autoencoder's loss, of model.name = "autoencoder"."""
    autoencoder = config.autoencoder = Section()
    autoencoder.latent_channels = 4
    autoencoder.regularization = "kl"  # or "vq"
    kl = autoencoder.kl = Section()
    kl.weight = default(float)
    vq = autoencoder.vq = Section()
    vq.codebook_size = default(int)
    vq.commitment = default(float)
    perceptual = autoencoder.perceptual = Section()
    perceptual.run = ""  # a file of Inception's weights, or the folder of a classifier
    perceptual.weight = default(float)
    adversarial = autoencoder.adversarial = Section()
    adversarial.weight = default(float)  # of the patch discriminator
    adversarial.start = default(int)  # its first step


def _optim(config: Config) -> None:
    """The optimizer."""
    optim = config.optim = Section()
    optim.optimizer = "Adam"
    optim.lr = 2e-4
    optim.beta1 = 0.9
    optim.beta2 = 0.999
    optim.eps = 1e-8
    optim.weight_decay = 0.0
    optim.warmup = 5000
    optim.schedule = "constant"  # of the learning rate after the warm-up; or "inverse_sqrt"
    optim.decay_start = default(int)  # of "inverse_sqrt": the last step of the full rate, 70,000
    optim.grad_clip = 1.0
    optim.freeze = ()  # regular expressions: a parameter whose whole name, such as "Conv_0/kernel",
    # matches one is not trained
    optim.nan_to_num = False  # replace NaN in gradients by 0, infinity by 1e5 (EDM)


SECTIONS = (
    _mesh,
    _training,
    _objective,
    _noise_density,
    _coupling,
    _source,
    _weighting,
    _sampling,
    _guidance,
    _eval,
    _edit,
    _serve,
    _detect,
    _benchmark_solvers,
    _exposure_bias,
    _ablate,
    _study,
    _data,
    _image_condition,
    _plan,
    _prepare,
    _model,
    _latent,
    _autoencoder,
    _optim,
)


def experiment(base: Part, variants: dict[str, tuple[Part, ...]], variant: str) -> Config:
    """The defaults, updated by a base and then by the parts of a variant.

    Raises:
        ValueError: an unknown variant.
    """
    check_variant(variant, tuple(variants))
    config, merged = get_config(), dict(base)
    for part in variants[variant]:
        merged |= part
    given = {field: value for field, value in merged.items() if value is not LEFT_OUT}
    config.update_from_flattened_dict(given)
    return config


def check_variant(variant: str, variants: tuple[str, ...]) -> None:
    """Raises ValueError, naming the nearest, unless variant is one of variants."""
    if variant not in variants:
        near = difflib.get_close_matches(variant, variants, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"variant {variant!r} is unknown: {hint}choose one of {variants}")
