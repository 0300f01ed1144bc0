import pytest
from tiny_configs import changed

from configs import cifar10, digits
from experiments.build import pipelines, tasks
from experiments.build.components import diffusion, networks


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


@pytest.mark.parametrize("name", ["hybrid", "vlb"])
@pytest.mark.parametrize("sde", ["cosine", "sigmoid", "chain"])
def test_a_learned_variance_goes_with_every_chain(sde, name):
    fields = {"training.sde": sde, "objective.name": name}
    pipelines.untrained(changed(digits.get_config("vlb"), fields))


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
    sde = diffusion.sde(config)
    if message is None:
        networks.noise_model(config, sde, (8, 8, 1))
        return
    with pytest.raises(ValueError, match=message):
        networks.noise_model(config, sde, (8, 8, 1))


def test_a_network_divides_by_sigma_unless_the_config_says_otherwise():
    config = digits.get_config("ve")
    del config.model.scale_by_sigma
    pipelines.untrained(config)
    config = digits.get_config("vp_score_sde")
    del config.model.scale_by_sigma
    with pytest.raises(ValueError, match="scale_by_sigma makes the output a score"):
        pipelines.untrained(config)


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
        tasks.task(learned(changes))
        return
    with pytest.raises(ValueError, match=message):
        tasks.task(learned(changes))
