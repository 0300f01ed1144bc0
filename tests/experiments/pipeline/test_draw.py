import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from exact_models import not_a_number, pipeline

import samplers
from configs import points
from experiments.pipeline import draw
from experiments.runs import devices


@pytest.fixture(scope="module")
def model():
    return pipeline(points.get_config("moons")).replace(sampler=samplers.create("heun", n_steps=30))


@pytest.mark.thorough
def test_samples_have_the_model_moments_and_do_not_depend_on_batches(model):
    x, nfe = draw.draw_all(model, 4096)
    assert nfe == 59
    assert x.mean() == pytest.approx(Gaussian().mean, abs=4 * 0.7 / np.sqrt(x.size))
    assert x.std() == pytest.approx(Gaussian().std, rel=0.05)
    again, _ = draw.draw_all(model.replace(batch_size=1000), 2100)
    np.testing.assert_allclose(x[:2100], again, atol=1e-5)


@pytest.mark.thorough
def test_samples_go_on_from_the_first_index(model):
    later, _ = draw.draw_all(model, 10, first_index=90)
    np.testing.assert_allclose(later, draw.draw_all(model, 100)[0][90:], atol=1e-5)


@pytest.mark.thorough
def test_samples_are_positions_where_states_have_velocities():
    """By the score of CLD's prior, which positions then keep: N(0, 1)."""
    config = points.get_config("moons")
    config.training.sde, config.model.parametrization = "cld", "epsilon"
    config.sampling.method, config.sampling.n_steps = "symmetric_splitting", 20
    config.sampling.noise_removal = False

    def score(x, t):
        return jnp.concatenate([jnp.zeros_like(x[:, :2]), -x[:, 2:] / 0.25], axis=1)  # the mass

    model = pipeline(config, score)
    x, nfe = draw.draw_all(model, 4096)
    assert nfe == 20
    np.testing.assert_allclose(np.cov(x.T), np.eye(2), atol=0.1)
    path = draw.draw_paths(model, 4096, 10)
    assert path.shape == (11, 4096, 2)
    np.testing.assert_allclose(path.std(axis=(1, 2)), 1, atol=0.06)


@pytest.mark.thorough
def test_samples_that_are_not_finite_are_an_error():
    model = pipeline(points.get_config("moons"), not_a_number)
    model = model.replace(sampler=samplers.create("euler", n_steps=3))
    with pytest.raises(FloatingPointError, match="samples are not finite"):
        draw.draw_all(model, 4)


@pytest.mark.thorough
def test_batches_of_size_0_fit_the_memory_and_give_the_same_samples(model, monkeypatch):
    def size(free, n=5000):
        monkeypatch.setattr(draw.devices, "free_bytes", lambda mesh: free)
        return draw.batch_size(model.replace(batch_size=0), n)

    assert size(1 << 40) == draw.MOST_ON_CPU * model.mesh.size
    assert size(1 << 40, n=3) == devices.round_up(model.mesh, 3)
    some = [size(free) for free in (2_000, 4_000, 8_000)]
    assert some[0] < some[1] < some[2]
    with pytest.raises(ValueError, match=r"a batch of 8 samples takes .* free memory"):
        size(10)
    expected, _ = draw.draw_all(model, 100)
    monkeypatch.undo()
    fitting, _ = draw.draw_all(model.replace(batch_size=0), 100)
    np.testing.assert_allclose(fitting, expected, atol=1e-5)


def test_a_batch_starts_before_the_last_one_is_used():
    started = []
    batch = draw.ahead(lambda first: started.append(first) or first, 4, 10)
    assert (batch(0), started) == (0, [0, 4])
    assert (batch(4), batch(8), started) == (4, 8, [0, 4, 8])


@pytest.mark.thorough
def test_log_densities_come_with_the_samples_of_the_flow(model):
    """In batches; in Python beside the samples. Those of other samplers are refused."""
    flow = samplers.create("probability_flow", log_prob=True)
    x, _, log_prob = draw.draw_all(model.replace(sampler=flow, batch_size=8), 12)
    np.testing.assert_allclose(log_prob, Gaussian().log_prob(x), atol=1e-2)
    again, densities = model.sample(12, log_prob=True)
    np.testing.assert_allclose(again, x, atol=1e-3)
    np.testing.assert_allclose(densities, log_prob, atol=1e-3)
    with pytest.raises(ValueError, match="log_prob is given by the probability flow, not by DDIM"):
        model.sample(12, sampler="ddim", log_prob=True)
