"""Likelihoods, over as many derivatives of the score as they evaluate."""

from collections.abc import Iterator
from functools import partial

import jax

import models
import sde_lib
from experiments.benchmark import measure
from experiments.benchmark.measure import Figure
from experiments.benchmark.presets import Preset
from experiments.benchmark.sampling import over_parts
from experiments.benchmark.subject import Network
from experiments.pipeline import scores
from experiments.runs import sharding


def figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """log_likelihood over its NFE times the score's jvp, in float32."""
    for subject in preset.subjects:
        network = Network.of(config := subject.config())
        network = network._replace(model=models.in_float32(network.model))
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

        def call(x, derivative=derivative, params=network.params, t=t, v=x):
            return derivative(params, x, t, v)[0]

        nfe = int(run().nfe)
        parts = {"jvp": (measure.chained(call, x, nfe), nfe)}
        yield over_parts("likelihood", str(subject), "log_likelihood", run, parts, repeats)
