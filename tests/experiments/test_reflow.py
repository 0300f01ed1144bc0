import jax
import numpy as np
import pytest
from tiny_configs import changed

from configs import points
from experiments.build import data, pipelines, tasks
from experiments.commands import generate
from experiments.pipeline.conditions import SOURCE
from experiments.runs.samples import write_samples

N = 40


def config(**changes):
    named = {name.replace("__", "."): value for name, value in changes.items()}
    small = {"model.nf": 8, "sampling.n_steps": 4, "sampling.n_samples": N}
    return changed(points.get_config("flow"), small | named)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A file of pairs of the flow, as if a model had made it."""
    path = tmp_path_factory.mktemp("pairs") / "generated.npz"
    noise = np.random.RandomState(0).randn(N, 2).astype(np.float32)
    about = data.sample_identity(config()) | {"pairs": True}
    write_samples(path, about, samples=3 * noise, noise=noise)
    return path


@pytest.mark.thorough
def test_reflow_trains_on_samples_with_their_noise(pairs):
    own = config(source__name="reflow", source__path=str(pairs))
    task, found = tasks.task(own), data.dataset(own)
    x, conditions = task.values(found, "train")
    assert (len(x), len(found.test)) == (36, 4)
    np.testing.assert_allclose(x, 3 * conditions["raw_source"], rtol=1e-6)
    assert len(found.real.train) == 20_000
    keys = {name: jax.random.key(0) for name in ("loss", "labels", "dropout", "augment")}
    params = task.init(jax.random.key(0))
    loss, _ = task.loss(params, keys, None, 0, x, conditions)
    other, _ = task.loss(params, keys, None, 0, x, {"raw_source": conditions["raw_source"][::-1]})
    assert loss != other


def test_samples_of_reflow_start_from_the_prior(pairs):
    model = tasks.task(config(source__name="reflow", source__path=str(pairs))).model
    assert SOURCE not in model.sample_conditions(np.arange(3))
    assert (model.only_eta, model.conditions.has_source) == (0.0, False)


@pytest.mark.thorough
def test_a_reflow_model_encodes_and_scores_data_without_their_noise(pairs):
    own = config(source__name="reflow", source__path=str(pairs))
    params = tasks.task(own).init(jax.random.key(0))
    model = pipelines.untrained(own).replace(params=params)
    x = np.ones((2, 2), np.float32)
    assert np.isfinite(model.log_likelihood(x, accuracy=0.1).log_prob).all()
    assert np.isfinite(model.encode(x)).all()


def test_samples_of_a_model_have_no_confidence(pairs):
    own = config(source__name="reflow", source__path=str(pairs), data__least_confidence=0.5)
    with pytest.raises(ValueError, match=r"least_confidence is 0.5, but samples of a model"):
        data.dataset(own)


@pytest.mark.parametrize(
    ("arrays", "about", "message"),
    [
        ({}, {}, "holds samples without their noise: make it by --mode=generate"),
        ({"noise": np.zeros((N, 2))}, {"sde": "VP()"}, "are of a model with sde = VP"),
    ],
)
def test_samples_that_are_no_pairs_of_this_flow_are_refused(tmp_path, arrays, about, message):
    path = tmp_path / "generated.npz"
    about = data.sample_identity(config()) | about
    write_samples(path, about, samples=np.zeros((N, 2)), **arrays)
    with pytest.raises(ValueError, match=message):
        data.dataset(config(source__name="reflow", source__path=str(path)))


def test_pairs_are_of_deterministic_samplers_from_noise():
    generate.check_pairs(tasks.task(config()).model)
    with pytest.raises(ValueError, match=r"the only equation for config.sampling.pairs"):
        generate.check_pairs(tasks.task(config(sampling__method="euler_maruyama")).model)
    with pytest.raises(ValueError, match="from normal noise"):
        generate.check_pairs(tasks.task(points.get_config("from_moons")).model)
