"""Configs of models that train in seconds."""

from configs import default, digits, points
from experiments.build.fields import choices, sections


def points_config():
    """An MLP of two moons: 20 steps without pictures and reports, coarse likelihoods."""
    config = points.get_config("moons")
    config.model.update(nf=8, num_res_blocks=1)
    config.optim.warmup = 0
    config.training.update(n_iters=20, batch_size=64, log_freq=10, eval_freq=20)
    config.training.update(snapshot_freq=1000, snapshot_freq_for_preemption=10)
    config.training.at_end = ()
    config.sampling.update(n_steps=25, n_samples=16, batch_size=16)
    config.eval.update(batch_size=2000, rtol=0.1, atol=0.1, num_samples=64)
    return config


def digits_config():
    """A U-Net of one level on digits and their classes: 4 steps without pictures."""
    config = digits.get_config()
    config.model.update(nf=8, ch_mult=(1,), attn_resolutions=(), num_res_blocks=0)
    config.model.update(class_conditional=True, label_dropout=0.1)
    config.optim.warmup = 0
    config.training.update(n_iters=4, batch_size=8, log_freq=1, eval_freq=4)
    config.training.update(snapshot_freq=1000, snapshot_freq_for_preemption=2)
    config.training.at_end = ()
    config.sampling.update(method="euler", n_steps=25, n_samples=4, batch_size=4)
    config.eval.update(batch_size=99, rtol=0.1, atol=0.1, num_samples=20)
    return config


def table_config(path):
    """An MLP of a table of three columns: 2 steps and their likelihoods, sampled by DDIM."""
    config = default.get_config()
    config.data.update(dataset="table", path=str(path), shape=(3,))
    with config.unlocked():
        config.model.update(name="mlp", nf=8, num_res_blocks=1)
    config.optim.warmup = 0
    config.training.update(n_iters=2, batch_size=8, log_freq=1, eval_freq=2, sinks=("jsonl",))
    config.training.at_end = ("likelihood",)
    config.sampling.method = "ddim"
    config.sampling.update(n_steps=12, n_samples=4, batch_size=4)
    config.eval.update(batch_size=10, rtol=0.1, atol=0.1, probe="exact")
    return config


def changed(config, changes):
    """The config with these fields, and without options of components that they replace."""
    before = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    sections.reset_options(config, before, choices.CHOICES, changes)
    return config
