import math

import pytest

from configs import default, digits, points
from experiments import command_line, main
from experiments.build import tasks
from experiments.build.fields import choices, known_fields, sections
from experiments.runs.folder import flatten

MODES = {mode: about for mode, (*_, about) in main.COMMANDS.items()}
SHIPPED = (
    *("digits", "emoji", "points", "cifar10", "celeba", "lsun", "celebahq", "ffhq", "afhq"),
    *("imagenet64", "imagenet512"),
)
PREDICTOR = {"sampling.method": "predictor_corrector"}
NUMBERS = [
    field
    for field, value in flatten(default.get_config().to_dict()).items()
    if sections.kind_of(field) in (int, float)
]


def own_file(tmp_path, *lines):
    """A user's config file: the digits, and some lines that change the config c."""
    path = tmp_path / "mine.py"
    head = "from configs import digits\n\ndef get_config():\n    c = digits.get_config()\n"
    path.write_text(head + "".join(f"    {line}\n" for line in (*lines, "return c")))
    return path


def parsed(*arguments):
    return command_line.parse(["main", *map(str, arguments)], MODES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.training.n_iter = 5", r"training\.n_iter does not .* mean config\.training\.n_iters"),
        ("c.optim.learning_rate = 1.0", r"config\.optim\.learning_rate does not exist"),
        ("c.trainng = dict(n_iters=5)", r"trainng\.n_iters does not .* config\.training\.n_iters"),
        ("c.batch_size = 5", r"config\.batch_size does not exist"),
        ("c.model.dropuot = 0.1", r"did you mean config\.model\.dropout"),
        ("c.sampling.guidance_weight = 2.0", r"is now config\.guidance\.classifier\.weight"),
        ("c.model.patch_size = 2", r"'ncsnpp' has no such option.* \('dit', 'discriminator'\)"),
        ("del c.training.n_iters", r"config\.training\.n_iters is missing"),
        ("c.training.n_iters = True", r"n_iters is True: it must be an integer"),
        ("c.training.n_iters = None", r"n_iters is None: it must be an integer"),
        ("c.optim.lr = float('nan')", r"lr is nan: it must be a number"),
        ("c.training.sinks = None", r"sinks is None: it must be a tuple"),
    ],
)
def test_a_mistake_in_a_file_of_ones_own_is_refused(tmp_path, line, message):
    parsed(f"--config={own_file(tmp_path)}")
    with pytest.raises(ValueError, match=message):
        parsed(f"--config={own_file(tmp_path, line)}")


def test_python_may_add_a_field_that_is_not_a_misspelt_one():
    config = points.get_config()
    config.sampling.brightness = 1.5
    known_fields.check(config, extended=True)
    config.my_task = {"size": 3}
    known_fields.check(config, extended=True)
    config.sampling.n_step = 5
    with pytest.raises(ValueError, match=r"did you mean config\.sampling\.n_steps"):
        known_fields.check(config, extended=True)
    config = points.get_config()
    config.sampeling = {"n_steps": 5}
    with pytest.raises(ValueError, match=r"did you mean config\.sampling\.n_steps"):
        known_fields.check(config, extended=True)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_set_nothing_in_vain(name):
    module = __import__(f"configs.{name}", fromlist=["get_config"])
    for variant in module.VARIANTS:
        config = module.get_config(variant)
        known_fields.check(config)
        known_fields.check_network(config)
        for choice in (
            choices.SAMPLER,
            choices.PREDICTOR,
            choices.CORRECTOR,
            choices.LEARNING_RATE,
        ):
            choice.check(config)


@pytest.mark.parametrize("field", NUMBERS)
def test_no_number_is_nan_or_far_below_its_range(field):
    for value in (math.nan, -7) if sections.kind_of(field) is int else (math.nan, -1e39, "1"):
        config = digits.get_config("vp_score_sde")
        sections.put(config, field, value)
        with pytest.raises(ValueError, match=field.rpartition(".")[2]):
            tasks.task(config)


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("vp", {"model.attn_resolutions": (16,)}, r"attn_resolutions has 16, .* are 8, 4 pixels"),
        ("vp", {"data.image_size": 32}, r"attn_resolutions has 4, .* are 32, 16 pixels"),
        ("vp", {"sampling.corrector": "langevin"}, r"'edm' has no such option"),
        ("vp", {"sampling.corrector": "none"}, r"'edm' has no such option"),
        ("ve", PREDICTOR | {"sampling.snr": 0.16}, r"corrector = 'none' has no such option"),
        ("ve", PREDICTOR | {"sampling.n_steps_each": 2}, r"corrector = 'none' has no such option"),
        (
            "ve",
            PREDICTOR
            | {"sampling.predictor": "ancestral_sampling", "sampling.probability_flow": True},
            r"predictor = 'ancestral_sampling' has no such option",
        ),
        ("vp_score_sde", {"model.sigma_data": 0.7}, r"sigma_data is 0.7, which does nothing here"),
        ("vp_score_sde", {"model.ema_rampup": 0.1}, r"nothing without config.model.ema_halflife"),
        ("vp", {"guidance.classifier.weight": 2.0}, r"nothing without .*classifier.run"),
        ("vp", {"guidance.discriminator.boost": True}, r"nothing without .*discriminator.run"),
        ("vp", {"guidance.time_shift.cutoff": 0.1}, r"nothing without .*time_shift.window"),
        ("vp", {"guidance.epsilon_scaling.guided": True}, r"no discriminator guides"),
        ("vp", {"autoencoder.kl.weight": 0.1}, r"is of autoencoders, not of 'ncsnpp'"),
        ("classifier", {"guidance.time_shift.window": 0.1}, r"of score models, not of 'wideres"),
        *(
            ("vp", {"sampling.method": "ddim", f"sampling.{name}": value}, "'ddim' has no such")
            for name, value in (
                ("predictor", "reverse_diffusion"),
                ("corrector", "langevin"),
                ("snr", 0.16),
                ("n_steps_each", 1),
                ("probability_flow", False),
                ("rtol", 1e-3),
            )
        ),
    ],
)
def test_an_option_that_changes_nothing_is_refused(variant, changes, message):
    config = digits.get_config(variant)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        tasks.task(config)
