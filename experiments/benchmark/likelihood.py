"""Likelihoods against as many derivatives of the score as they evaluate."""

from collections.abc import Iterator
from functools import partial

import jax

from experiments.benchmark import measure
from experiments.benchmark.measure import Figure
from experiments.benchmark.presets import Preset


def figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """log_likelihood against its NFE times the score's jvp, in float32."""
    for subject in preset.subjects:
        title = f"likelihood {subject}"
        with measure.working(f"{title}: compiling"):
            network = subject.network()
            network = network._replace(model=network.model.in_float32())
            model = subject.pipeline(network.params).replace(model=network.model)
            x, t = network.inputs(preset.n_samples)

            @jax.jit
            def whole(params, key, x, model=model):
                score_fn = model.score_of(params, {})
                return model.likelihood.log_likelihood(key, model.sde, score_fn, x)

            @jax.jit
            def derivative(params, x, t, v, network=network):
                return jax.jvp(lambda x: network.score(params, x, t), (x,), (v,))

            run = partial(whole, network.params, jax.random.key(model.seed), x)
            nfe = int(run().nfe)

        def call(x, derivative=derivative, params=network.params, t=t, v=x):
            return derivative(params, x, t, v)[0]

        parts = {"jvp": (measure.chained(call, x, nfe), nfe)}
        yield measure.over_parts("likelihood", str(subject), "log_likelihood", run, parts, repeats)
