import jax
import numpy as np
import pytest
from tiny_configs import changed

from configs import digits, points
from experiments.build import pipelines, tasks
from experiments.build.checks import couplings
from sde_lib import LinearFlow
from sde_lib.transport import Assignment, Sinkhorn


def coupled(**changes):
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return changed(points.get_config("coupled"), named)


def test_a_coupling_has_the_config_numbers():
    sde = LinearFlow()
    assert couplings.losses(points.get_config("flow"), sde) == {}
    assert couplings.losses(coupled(), sde)["coupling"] == Assignment(64)
    config = coupled(coupling__name="sinkhorn", coupling__entropy=0.3, coupling__group=None)
    assert couplings.losses(config, sde)["coupling"] == Sinkhorn(64, 0.3)


def test_the_loss_pairs_within_groups():
    """The loss of a sample depends on the samples of its group, and on no others."""
    config = coupled(coupling__group=4, training__batch_size=8, objective__stratified=False)
    loss = tasks.task(config).loss_of(None)
    x = jax.random.normal(jax.random.key(1), (8, 2))
    sde = tasks.task(config).model.sde
    losses = lambda x: loss(jax.random.key(0), sde, lambda x, t: -x, x)[0]  # noqa: E731
    before, after = losses(x), losses(x.at[0].set(-5 * x[1]))
    assert not np.allclose(before[:4], after[:4])
    np.testing.assert_array_equal(before[4:], after[4:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coupling__group": 100}, "group is 100, and a microbatch has 512 samples"),
        ({"training__n_microbatches": 16}, "group is 64, and a microbatch has 32"),
        (
            {"coupling__group": 4096, "training__batch_size": 4096},
            r"config\.coupling\.group is 4096: .* at most 2048, because memory .*; give a smaller",
        ),
        ({"coupling__group": 1}, r"config\.coupling\.group is 1: it must be at least 2"),
        ({"coupling__entropy": 0.1}, "config.coupling.entropy is 0.1, but config.coupling.name"),
        ({"coupling__name": "greedy"}, "config.coupling.name 'greedy' is unknown"),
        ({"sampling__method": "euler_maruyama"}, r"the only equation for a model .* coupling"),
        ({"sampling__method": "edm", "sampling__s_churn": 5.0}, "does not sample by the prob"),
        ({"model__vector_dim": 3}, "config.model.vector_dim is 3, a condition"),
        ({"source__name": "pairs"}, "source.name is 'pairs', whose samples are paired already"),
        ({"eval__enable_bound": True}, "config.eval.enable_bound is True, the variational"),
    ],
)
def test_what_does_not_go_with_a_coupling_is_refused_before_training(changes, message):
    with pytest.raises(ValueError, match=message):
        tasks.task(coupled(**changes))


def test_a_coupling_is_of_denoising_alone():
    config = coupled()
    config.objective.name = "sliced"
    with pytest.raises(ValueError, match=r"config.coupling.name is 'assignment', but config.obj"):
        tasks.task(config)


def test_a_coupled_model_is_neither_guided_nor_edited():
    model = pipelines.untrained(coupled())
    with pytest.raises(ValueError, match="mode edit needs the score of noisy data, which a model"):
        model.check_diffuses_data("mode edit")
    pipelines.untrained(digits.get_config()).check_diffuses_data("mode edit")


def test_a_bridge_from_samples_has_the_entropy_of_its_sde():
    config = changed(points.get_config("bridge"), {"model.brownian_scale": 0.7})
    made = tasks.task(config)
    options = made.loss_of(None).keywords
    assert (options["bridge"], made.model.only_eta) == (True, 1.0)
    np.testing.assert_allclose(options["coupling"].entropy, 0.49, rtol=1e-6)


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("bridge", {"sampling.method": "heun"}, "does not sample by the reverse SDE"),
        ("from_moons", {"sampling.method": "euler_maruyama"}, "does not sample by the prob"),
        ("from_moons", {"source.dataset": None}, "config.source.dataset is not set"),
        ("from_moons", {"eval.enable_bound": True}, "enable_bound is True, the variational bound"),
        ("flow", {"source.name": "reflow"}, "'reflow', but config.source.path is not set"),
        ("flow", {"objective.bridge": True}, "config.objective.bridge is True, but without"),
        ("flow", {"source.dataset": "moons"}, "config.source.dataset is 'moons', but config.sou"),
    ],
)
def test_what_does_not_go_with_a_source_is_refused_before_training(variant, changes, message):
    with pytest.raises(ValueError, match=message):
        tasks.task(changed(points.get_config(variant), changes))


def test_a_source_beyond_memory_is_refused():
    config = changed(points.get_config("from_moons"), {"data.resident_bytes": 1000})
    with pytest.raises(ValueError, match=r"'moons' has 160000 bytes, and config.data.resident_b"):
        tasks.task(config).model.sample_conditions(np.arange(2))


def test_a_source_of_another_shape_is_refused():
    changes = {"source.dataset": "digits"}
    made = tasks.task(changed(points.get_config("from_moons"), changes))
    with pytest.raises(ValueError, match="the arrays of 'digits' have 4 axes, they must have 2"):
        made.model.sample_conditions(np.arange(2))
