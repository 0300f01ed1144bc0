from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Gaussian
from experiments.training.checkpoint import Checkpoints

import models
from configs import digits, points
from experiments import build
from experiments.commands import evaluate, train
from experiments.data import data
from experiments.evaluation import bound
from experiments.pipeline import sample
from experiments.runs import parts, workdir
from experiments.training import state
from sde_lib import loss_history

GAUSSIAN = Gaussian(mean=0.3, std=0.7)
N = 600


class Exact(nn.Module):
    """The network for points whose score is GAUSSIAN's."""

    @nn.compact
    def __call__(self, x, labels, train=False):
        self.param("unused", nn.initializers.zeros, ())
        sigma = labels[:, None]  # 1 - alpha^2
        alpha2 = 1 - sigma**2
        return sigma * (x - jnp.sqrt(alpha2) * 0.3) / (alpha2 * 0.49 + sigma**2)


@pytest.fixture
def config(monkeypatch):
    rows = [np.asarray(GAUSSIAN.sample(jax.random.key(k), (N, 2))) for k in (0, 1)]
    monkeypatch.setitem(models.MODELS, "mlp", Exact)
    monkeypatch.setattr(data, "load", lambda config: data.Dataset(rows[0], rows[1], None))
    config = points.get_config()
    config.eval.bound_steps, config.eval.batch_size = 100, N
    config.eval.update(enable_bound=True, enable_loss=False, enable_bpd=False)
    config.eval.enable_sampling = False
    return config


def trained(config, folder):
    workdir.claim(config, folder)
    checkpoints, model = Checkpoints(folder), models.create(config)
    checkpoints.save(5, state.init_state(config, model)._replace(step=jnp.array(5)))
    checkpoints.close()
    return folder


def test_the_bound_of_a_run_is_near_its_likelihood_and_is_not_computed_twice(
    config, tmp_path, capsys, monkeypatch
):
    folder = trained(config, tmp_path / "run")
    evaluate.run(config, folder)
    text = capsys.readouterr().out
    assert "step 5: bound bits/dim" in text
    test = data.load(config).test
    exact = -np.asarray(GAUSSIAN.log_prob(test)) / (2 * np.log(2))
    mean, error = (float(text.split()[k]) for k in (4, 6))
    assert abs(mean - exact.mean()) < 4 * error < 0.3
    prior, diffusion, reconstruction = (
        float(text.split(f"{name} ")[1].split(",")[0].rstrip(")\n"))
        for name in ("prior", "diffusion", "reconstruction")
    )
    assert prior + diffusion + reconstruction == pytest.approx(mean, abs=1e-3)
    terms = np.loadtxt(folder / "bound_5.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(terms[:, 0], bound.log_snrs(config))
    assert terms[:, 1].sum() == pytest.approx(diffusion + reconstruction, abs=1e-3)

    monkeypatch.setattr(parts, "save", lambda *_, **__: pytest.fail("computed again"))
    evaluate.run(config, folder)
    assert capsys.readouterr().out == text
    made = bound.analytic(config, models.create(config), {"unused": jnp.zeros(())}, folder)
    exact = 0.49 / (0.49 + np.exp(-np.asarray(made.log_snrs)))
    np.testing.assert_allclose(made.unknown, exact, atol=0.07)

    config.sampling.method, config.sampling.variance = "ddpm", "analytic"
    config.sampling.n_steps, config.sampling.n_samples = 20, 2000
    params = state.load(config, folder)[1]
    x, _ = sample.draw(config, models.create(config), params, 2000, folder)
    assert x.std() == pytest.approx(0.7, rel=0.04)


def test_a_chain_of_more_steps_than_levels_is_refused_at_once(config):
    config.training.continuous, config.eval.bound_steps = False, 1001
    with pytest.raises(ValueError, match="1001 steps, but the model was trained at 1000"):
        evaluate.run(config, None)  # pyright: ignore[reportArgumentType]


def test_a_chain_without_steps_is_refused_by_its_field(config):
    config.eval.bound_steps = 0
    with pytest.raises(ValueError, match=r"config\.eval\.bound_steps is 0: it must be at least 2"):
        evaluate.run(config, None)  # pyright: ignore[reportArgumentType]


def learned(**changes):
    config = digits.get_config("vlb")
    config.model.update(nf=4, ch_mult=(1,), attn_resolutions=(), num_scales=30)
    config.sampling.n_steps = 30
    config.training.update(batch_size=8, **changes)
    return config


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("training.continuous", True, "the levels of DDPM's chain"),
        ("training.sde", "vesde", "the levels of DDPM's chain"),
        ("training.objective", "denoising", "by 'hybrid' or 'vlb', and by these alone"),
        ("model.learned_variance", False, "by 'hybrid' or 'vlb', and by these alone"),
        ("training.reduce_mean", True, "which the objective 'hybrid' has no use for"),
        ("training.vlb_weight", -1.0, "vlb_weight is -1.0"),
        ("training.loss_history", -1, "config.training.loss_history is -1"),
        ("sampling.method", "ddim", "has no such option"),
    ],
)
def test_what_does_not_go_with_a_learned_variance_is_refused(field, value, message):
    config = learned()
    section, name = field.split(".")
    config[section][name] = value
    with pytest.raises(ValueError, match=message):
        build.check(config)


def test_a_history_is_of_the_bound_and_of_whole_batches():
    config = learned(loss_history=2, n_microbatches=2)
    with pytest.raises(ValueError, match="n_microbatches=1"):
        build.check(config)
    config = digits.get_config()
    config.training.loss_history = 2
    with pytest.raises(ValueError, match="terms of the bound"):
        build.check(config)
    config.training.loss_history = 0
    config.sampling.method, config.sampling.variance = "ddpm", "learned"
    with pytest.raises(ValueError, match="without guidance"):
        build.check(config)


class Two(nn.Module):
    """A network of two weights: of the noise, and of the variance."""

    learned_variance: bool = False

    @nn.compact
    def __call__(self, x, labels, train=False):
        a, b = (self.param(name, nn.initializers.zeros, ()) for name in ("noise", "variance"))
        return jnp.concatenate([a * x, b * jnp.ones_like(x)], -1)


def test_a_step_fills_the_history_and_teaches_the_variance(monkeypatch):
    monkeypatch.setitem(models.MODELS, "two", Two)
    config = learned(loss_history=2)
    config.model.name, config.optim.warmup = "two", 0
    model = models.create(config)
    before = state.init_state(config, model)
    step = jax.jit(
        train.make_train_step(config, model, 17),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    batch = jax.random.randint(jax.random.key(0), (1, 8, 8, 8, 1), 0, 17).astype(jnp.uint8)
    after, metrics = step(before, batch)
    _, history = after.opt_state
    assert np.isfinite(metrics["loss"])
    assert int(history.counts.sum()) == 8
    assert np.count_nonzero(history.terms) == 8
    assert all(abs(float(weight)) > 1e-4 for weight in after.params.values())
    sde = build.make_sde(config)
    params = {"noise": jnp.float32(2), "variance": jnp.float32(-1)}
    score_fn: Any = models.score_fn(config, sde, model, params)
    t, x = jnp.array([0.3, 1.0]), jnp.ones((2, 8, 8, 1))
    score, v = score_fn.both(x, t)
    np.testing.assert_array_equal(v, 0)  # beta-tilde's
    np.testing.assert_allclose(score[:, 0, 0, 0], -2 / sde.sigma(t), rtol=1e-6)
    np.testing.assert_array_equal(score_fn(x, t), score)

    # A full history that has known one level's term alone.
    terms = jnp.zeros((30, 2)).at[7].set(1.0)
    full = loss_history.LossHistory(terms, jnp.full(30, 2))
    again, _ = step(after._replace(opt_state=(after.opt_state[0], full)), batch)
    assert int(again.opt_state[1].counts[7]) == 2 + 8


@pytest.mark.parametrize("name", ["ncsnpp", "adm", "ddpm"])
def test_networks_have_twice_the_channels(name):
    config = learned()
    config.model.name, config.model.nf = name, 8
    model, x = models.create(config), jnp.zeros((1, 8, 8, 1))
    shape = jax.eval_shape(model.init_with_output, jax.random.key(0), x, jnp.ones(1))[0].shape
    assert shape == (1, 8, 8, 2)
