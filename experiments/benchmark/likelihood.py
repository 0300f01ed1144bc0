"""Likelihoods, over as many derivatives of the score as they evaluate."""

from collections.abc import Iterator
from functools import partial

import jax

import sde_lib
from experiments import scores, sharding
from experiments.benchmark.measure import Figure
from experiments.benchmark.presets import Preset
from experiments.benchmark.sampling import over_parts
from experiments.benchmark.subject import Network


def figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """log_likelihood over its NFE times the score's jvp."""
    for subject in preset.subjects:
        network = Network.of(config := subject.config())
        mesh, (x, t) = sharding.make_mesh(config), network.inputs(preset.n_samples)

        @jax.jit
        def whole(params, key, x, network=network, mesh=mesh):
            config = network.config
            score_fn = scores.score_fn(config, network.sde, network.model, mesh, params)
            rtol, atol = config.eval.rtol, config.eval.atol
            return sde_lib.log_likelihood(key, network.sde, score_fn, x, rtol, atol)

        @jax.jit
        def derivative(params, x, t, v, network=network):
            return jax.jvp(lambda x: network.score(params, x, t), (x,), (v,))

        run = partial(whole, network.params, jax.random.key(config.seed), x)
        calls = {"jvp": (partial(derivative, network.params, x, t, x), int(run().nfe))}
        yield over_parts("likelihood", str(subject), "log_likelihood", run, calls, repeats)
