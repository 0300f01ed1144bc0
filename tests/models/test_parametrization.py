import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from closed_forms import SDES, Gaussian
from exact import SDES as ALL_SDES
from exact import kernel

import models
import sde_lib
from models.parametrization import PARAMETRIZATIONS
from sde_lib.batch import expand


class Probe:
    """A network that records what it is given and returns its input."""

    def apply(self, variables, x, labels, train, rngs):
        self.seen = variables, labels, train, rngs
        return x


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("network", ["ncsnpp", "mlp"])
def test_labels_and_scaling_are_the_published_ones(name, network):
    sde, probe = SDES[name], Probe()
    config = ml_collections.ConfigDict({"model": {"name": network}})
    x = jnp.ones((3, 4, 4, 1))
    t = jnp.array([0.1, 0.5, 1.0])
    score = models.score_fn(config, sde, probe, "params")(x, t)  # pyright: ignore
    _, labels, train, rngs = probe.seen
    assert not train
    assert rngs == {}
    if network == "mlp" or name == "ve":
        np.testing.assert_allclose(labels, sde.sigma(t))
    else:
        np.testing.assert_allclose(labels, 999 * t)
    expected = x if name == "ve" and network == "ncsnpp" else -x / expand(sde.sigma(t), x)
    np.testing.assert_allclose(score, expected)


@pytest.mark.thorough
def test_preconditionings_are_alike_if_a_network_sees_the_same():
    def made(sde, name, **options):
        return models.Preconditioning(sde, name, **options)

    vp, edm = sde_lib.VP(), sde_lib.EDM(t_min=0.002)
    labels = made(vp, "edm_vp")
    assert labels.sees_alike(made(vp, "score_sde"))
    assert labels.sees_alike(made(edm, "edm_vp"))
    assert made(edm, "edm", sigma_data=0.7).sees_alike(made(vp, "edm", sigma_data=0.7))
    for other in (
        made(vp, "edm"),
        made(vp, "x0", label_scale=0.25),
        made(sde_lib.VP(beta_max=19.0), "score_sde"),
        made(edm, "score_sde"),
        made(vp, "score_sde", inputs="unscaled"),
    ):
        assert not labels.sees_alike(other)
    assert not made(edm, "edm", sigma_data=0.7).sees_alike(made(edm, "edm"))
    kinds = {"edm": True, "edm_cosine": True, "v": False, "score_sde": False}
    assert {name: made(edm, name).any_sde for name in kinds} == kinds
    assert not made(edm, "edm", inputs="points").any_sde


@pytest.mark.slow
def test_a_chain_s_network_sees_what_its_limit_does():
    """Up to the index of a level, which is t in steps less 1."""
    limit = models.Preconditioning(sde_lib.Cosine(), "edm_cosine")
    chain = models.Preconditioning(sde_lib.chain(1000, "cosine"), n_levels=1000)
    assert limit.sees_alike(chain)
    assert not models.Preconditioning(sde_lib.VP(), "edm_vp").sees_alike(chain)


def test_langevin_diffusion_s_score_is_mixed_and_of_velocities_alone():
    """Of a network that gives its input, on top of the score of data of unit variance."""
    sde, probe = sde_lib.CLD(), Probe()
    x, t = jax.random.normal(jax.random.key(0), (3, 4)), jnp.array([0.01, 0.3, 1.0])
    sigma, variance = sde.sigma(t)[:, None], sde.covariance(t, 1.0)[2][:, None]
    for name, mixed in (("score_sde", 1.0), ("epsilon", 0.0)):
        config = ml_collections.ConfigDict({"model": {"name": "mlp", "parametrization": name}})
        score = models.score_fn(config, sde, probe, "params")(x, t)  # pyright: ignore
        np.testing.assert_allclose(score[:, :2], 0)
        expected = -mixed * x[:, 2:] / variance - x[:, 2:] / sigma
        np.testing.assert_allclose(score[:, 2:], expected, rtol=1e-5)
    np.testing.assert_allclose(probe.seen[1], sde.sigma(t))


DISCRETE = {"model": {"name": "ncsnpp", "num_scales": 100}, "training": {"continuous": False}}


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_discrete_labels_are_the_indices_of_the_levels(name):
    sde, probe = SDES[name], Probe()
    t = sde.inverse_log_snr(jnp.asarray(sde.levels(100), jnp.float32))
    x = jnp.ones((100, 2))
    score = models.score_fn(ml_collections.ConfigDict(DISCRETE), sde, probe, "params")(x, t)  # pyright: ignore
    np.testing.assert_allclose(probe.seen[1], np.arange(100), atol=1e-4)
    np.testing.assert_allclose(score, x if name == "ve" else -x / expand(sde.sigma(t), x))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ve", "vp"])
def test_a_discrete_network_has_the_exact_likelihood(name):
    """One that knows the noise of its levels, and nothing else, on Gaussian data."""
    sde, data = SDES[name], Gaussian()
    config = ml_collections.ConfigDict(DISCRETE)

    class Exact:
        def apply(self, variables, x, labels, train, rngs):
            log_snr = jnp.interp(labels, jnp.arange(100), sde.levels(100))
            t = sde.inverse_log_snr(log_snr)
            score = data.score_fn(sde)(x, t)
            return score if name == "ve" else -score * expand(sde.sigma(t), x)

    least = float(sde.inverse_log_snr(sde.levels(100).max()))
    sde = dataclasses.replace(sde, train_t_min=max(sde.train_t_min, least))
    mean, std = data.marginal(sde, sde.train_t_min)
    x = mean + std * jax.random.normal(jax.random.key(0), (16, 2))
    score_fn = models.score_fn(config, sde, Exact(), {})  # pyright: ignore
    key = jax.random.key(1)
    likelihood = jax.jit(lambda x: sde_lib.log_likelihood(key, sde, score_fn, x, probe="exact"))
    result = likelihood(x)
    latent, log_det = data.flow(sde, x, sde.train_t_min)
    np.testing.assert_allclose(result.latent, latent, rtol=2e-3, atol=2e-3 * sde.prior_std)
    np.testing.assert_allclose(result.log_prob, sde.prior_logp(latent) + log_det, atol=5e-3)


class Fixed:
    """A network whose output is what it was made with; it records its input."""

    def __init__(self, output):
        self.output = output

    def apply(self, variables, x, labels, train, rngs):
        self.x, self.labels = x, labels
        return self.output


def score_of(parametrization, sde, network, x, t, **options):
    model = {"name": "ncsnpp", "parametrization": parametrization, **options}
    config = ml_collections.ConfigDict({"model": model})
    return models.score_fn(config, sde, network, {})(x, t)


def times(sde):
    return np.geomspace(max(sde.t_min, 1e-4), sde.t_max, 40).astype(np.float32)


def preconditioning(name, level, sigma_data):
    """c_skip, c_out and c_in of Karras et al. 2022, Table 1."""
    if name == "edm":
        power = level**2 + sigma_data**2
        return sigma_data**2 / power, level * sigma_data / np.sqrt(power), 1 / np.sqrt(power)
    if name == "edm_ve":
        return 1.0, level, 1.0
    return 1.0, -level, 1 / np.sqrt(level**2 + 1)


def output_by_definition(name, x0, eps, kernel, sigma_data=0.5):
    """What the network is to give, and be given, in float64."""
    alpha, sigma, alpha_rate, sigma_rate = (value[:, None] for value in kernel)
    x = alpha * x0 + sigma * eps
    if name.startswith("edm"):
        y, level = x / alpha, sigma / alpha
        c_skip, c_out, c_in = preconditioning(name, level, sigma_data)
        return (x0 - c_skip * y) / c_out, c_in * y
    output = {
        "epsilon": eps,
        "x0": x0,
        "v": alpha * eps - sigma * x0,
        "score": -eps / sigma,
        "velocity": alpha_rate * x0 + sigma_rate * eps,
    }[name]
    return output, x


@pytest.mark.parametrize("sde_name", ALL_SDES)
def test_all_parametrizations_give_one_score(sde_name):
    """Each from F by definition, so each pair agrees: to 2e-6 of the noise, down to t_min.

    F and x are rounded to float32: "x0" knows eps = (x - alpha x_0) / sigma to that over sigma.
    """
    sde, rng = ALL_SDES[sde_name], np.random.default_rng(0)
    t = times(sde)
    coefficients = kernel(sde_name, t)
    alpha, sigma = (value[:, None] for value in coefficients[:2])
    x0, eps = rng.uniform(-1, 1, (len(t), 8)), rng.standard_normal((len(t), 8))
    x = (alpha * x0 + sigma * eps).astype(np.float32)
    eps = (x - alpha * x0) / sigma  # of the x that the network sees
    for name in PARAMETRIZATIONS:
        output, network_input = output_by_definition(name, x0, eps, coefficients)
        network = Fixed(jnp.asarray(output, jnp.float32))
        score = score_of(name, sde, network, jnp.asarray(x), jnp.asarray(t))
        error = np.abs(sigma * score + eps)
        unavoidable = 2**-22 * np.abs(alpha * x0 / sigma) if name == "x0" else 0.0
        assert (error <= 2e-6 * (1 + np.abs(eps)) + unavoidable).all(), name
        np.testing.assert_allclose(network.x, network_input, rtol=1e-5)


def test_score_of_edm_keeps_the_published_denoiser():
    """x_0 by Tweedie's formula is c_skip y + c_out F(c_in y), at the smallest noise too."""
    sde, sigma_data = ALL_SDES["edm"], 0.7
    t = jnp.asarray(times(sde))
    x = jax.random.normal(jax.random.key(0), (len(t), 4)) * (1 + t[:, None])
    output = jnp.cos(x)
    for name in ("edm", "edm_vp", "edm_ve", "edm_iddpm"):
        c_skip, c_out, _ = preconditioning(name, np.asarray(t, np.float64)[:, None], sigma_data)
        score = score_of(name, sde, Fixed(output), x, t, sigma_data=sigma_data)
        denoised = c_skip * x + c_out * output
        scale = np.abs(c_skip * x) + np.abs(c_out * output) + np.abs(x)
        assert (np.abs(sde.denoise(x, t, score) - denoised) <= 1e-6 * scale).all()


def iddpm_label(level):
    """Step by step, as the table says."""
    m, c1, c2 = 1000, 0.001, 0.008
    alpha_bar = [np.sin(np.pi / 2 * j / (m * (c2 + 1))) ** 2 for j in range(m + 1)]
    u = np.zeros(m + 1)
    for j in range(m, 0, -1):
        ratio = max(alpha_bar[j - 1] / alpha_bar[j], c1)
        u[j - 1] = np.sqrt((u[j] ** 2 + 1) / ratio - 1)
    return m - 1 - np.argmin(np.abs(u - np.asarray(level)[:, None]), axis=1)


def cosine_label(level):
    """The time of alpha = 1 / sqrt(1 + l^2), from the angle of the cosine schedule in float64."""
    first = np.cos(0.008 / 1.008 * np.pi / 2)
    angle = np.arccos(np.minimum(first / np.hypot(1.0, level), 1.0))
    return 999 * (1.008 * 2 / np.pi * angle - 0.008)


LABELS = {
    "edm": lambda level: np.log(level) / 4,
    "edm_ve": lambda level: np.log(level / 2),
    "edm_vp": lambda l: 999 * (np.sqrt(0.01 + 2 * 19.9 * np.log1p(l**2)) - 0.1) / 19.9,  # noqa: E741
    "edm_iddpm": iddpm_label,
    "edm_cosine": cosine_label,
}


@pytest.mark.parametrize("parametrization", LABELS)
@pytest.mark.parametrize("name", ["edm", "vp", "flow"])
def test_labels_of_edm_s_parametrizations_are_the_published_ones(parametrization, name):
    sde, network = ALL_SDES[name], Fixed(0.0)
    t = times(sde)
    alpha, sigma, *_ = kernel(name, t)
    score_of(parametrization, sde, network, jnp.zeros((len(t), 1)), jnp.asarray(t))
    expected = LABELS[parametrization](sigma / alpha)
    np.testing.assert_allclose(network.labels, expected, rtol=1e-5, atol=1e-6)


def test_labels_of_the_others_are_those_of_score_sde():
    t, x = jnp.array([0.1, 0.5]), jnp.ones((2, 2))
    for name, expected in (("edm", t), ("cosine", 999 * t / 0.9946), ("vp", 999 * t)):
        for parametrization in ("epsilon", "x0", "v", "score", "velocity", "score_sde"):
            score_of(parametrization, ALL_SDES[name], network := Fixed(x), x, t)
            np.testing.assert_allclose(network.labels, expected, rtol=1e-6)
    np.testing.assert_array_equal(score_of("score_sde", ALL_SDES["edm"], Fixed(x), x, t), x)
    for parametrization in PARAMETRIZATIONS:  # its logarithm is taken
        score_of(parametrization, ALL_SDES["edm"], network := Fixed(x), x, t, name="mlp")
        np.testing.assert_array_equal(network.labels, t)
    mlp = score_of("score_sde", ALL_SDES["edm"], Fixed(x), x, t, name="mlp")
    np.testing.assert_allclose(mlp, -x / t[:, None], rtol=1e-6)


def test_labels_are_scaled():
    """To steps of a thousand, as improved-diffusion; and of EDM, as consistency-models."""
    t = jnp.array([0.0, 1000 / 3999, 1.0])
    levels = sde_lib.chain(4000, "cosine")
    inputs = models.Preconditioning(levels, "epsilon", n_levels=4000, label_scale=0.25)
    np.testing.assert_allclose(inputs.label(t), [0, 250, 999.75], atol=1e-3)
    inputs = models.Preconditioning(sde_lib.EDM(), "edm", label_scale=1000.0)
    np.testing.assert_allclose(inputs.label(t[1:]), 250 * np.log(t[1:]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"label_scale is 0\.0: it must be positive"):
        models.Preconditioning(sde_lib.EDM(), label_scale=0.0)
    inputs = models.Preconditioning(sde_lib.VE(), n_levels=10, label_scale=2.0)
    with pytest.raises(ValueError, match=r"looks its labels up in a list, .*label_scale is 2\.0"):
        inputs.check(models.MODELS["ncsnv2_64"](nf=8))


def test_only_the_conditions_that_are_given_reach_the_network():
    class Conditional:
        def apply(self, variables, x, labels, train, rngs, **conditions):
            self.conditions = conditions
            return x

    x, t = jnp.ones((2, 3)), jnp.ones(2)
    for conditions in ({}, {"class_labels": jnp.arange(2)}, {"augment_labels": jnp.ones((2, 9))}):
        network = Conditional()
        model = models.NoiseModel(network, models.Preconditioning(SDES["vp"]))  # pyright: ignore
        model.score_fn({}, text=None, **conditions)(x, t)
        assert network.conditions.keys() == conditions.keys()
        for name, value in conditions.items():
            assert network.conditions[name] is value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parametrization": "edn"}, "did you mean 'edm'"),
        ({"sigma_data": 0.0}, "config.model.sigma_data is 0.0: it must be positive"),
    ],
)
def test_impossible_values_are_refused(options, message):
    config = ml_collections.ConfigDict({"model": {"name": "ncsnpp", **options}})
    with pytest.raises(ValueError, match=message):
        models.score_fn(config, SDES["vp"], Probe(), {})  # pyright: ignore


def test_dropout_key_reaches_the_network():
    probe = Probe()
    config = ml_collections.ConfigDict({"model": {"name": "ncsnpp"}})
    key = jax.random.key(0)
    fn = models.score_fn(config, SDES["vp"], probe, "params", True, key)  # pyright: ignore
    fn(jnp.ones((1, 2)), jnp.ones(1))
    assert probe.seen[2:] == (True, {"dropout": key})


@pytest.mark.parametrize("name", ["edm", "vp", "ve"])
def test_any_function_is_preconditioned_as_a_network_is(name):
    """models.precondition needs no config, and gives what models.score_fn gives."""
    sde, t = ALL_SDES[name], jnp.array([0.1, 0.5, 0.9])
    x = jax.random.normal(jax.random.key(0), (3, 4))

    def f(x, label):
        return jnp.sin(x) * label[:, None]

    class Network:
        def apply(self, variables, x, labels, train, rngs):
            return f(x, labels)

    for parametrization in ("edm", "v", "score_sde"):
        ours = models.precondition(f, sde, parametrization, sigma_data=0.5)(x, t)
        theirs = score_of(parametrization, sde, Network(), x, t, sigma_data=0.5)
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="did you mean 'edm'"):
        models.precondition(f, sde, "edn")


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["vp", "edm"])
def test_the_score_of_an_energy_is_its_gradient(name):
    """Of <y, G y> the gradient is (G + G^T) y: the F of "edm". Any network has no curl then."""
    sde, g = ALL_SDES[name], np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    x, t = jax.random.normal(jax.random.key(0), (4, 3)), jnp.linspace(0.1, 0.9, 4) * sde.t_max
    energy = models.precondition(lambda y, label: label[:, None] * (y @ g.T), sde, "energy", 0.7)
    edm = models.precondition(lambda y, label: label[:, None] * (y @ (g + g.T)), sde, "edm", 0.7)
    assert isinstance(energy, sde_lib.ScoreAndEnergy)
    np.testing.assert_allclose(energy(x, t), edm(x, t), rtol=2e-5, atol=1e-5)
    curly = models.precondition(lambda y, label: jnp.sin(y @ g.T), sde, "energy")
    jacobian = jax.vmap(jax.jacrev(lambda x, t: curly(x[None], t[None])[0]))(x, t)
    np.testing.assert_allclose(jacobian, np.swapaxes(jacobian, 1, 2), rtol=1e-4, atol=1e-4)


def test_an_energy_has_no_learned_variance():
    with pytest.raises(ValueError, match="'energy' has no learned variance"):
        models.parametrization.Preconditioning(SDES["vp"], "energy", learned_variance=True)


@pytest.mark.thorough
def test_outputs_are_the_networks_own_at_its_labels():
    """A classifier's logits: it sees x as it is, and score_sde's labels, which are positive."""
    made = models.Preconditioning(SDES["vp"], inputs="unscaled")

    class Logits:
        def apply(self, variables, x, labels, scale):
            return scale * jnp.stack([x.sum(1), labels], axis=1)

    model = models.NoiseModel(Logits(), made)  # pyright: ignore
    x, t = jnp.ones((2, 3)), jnp.array([0.0, 0.5])
    logits = model.outputs({}, scale=2.0)(x, t)
    np.testing.assert_allclose(logits, [[6, 2 * 999e-5], [6, 999]], rtol=1e-6)
