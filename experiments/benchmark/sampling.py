"""Samplers against as many calls of the compiled network as they make; guided ones too."""

from collections.abc import Iterator
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

import samplers
import sde_lib
from experiments.benchmark import measure
from experiments.benchmark.measure import Figure, Run
from experiments.benchmark.presets import Preset
from experiments.benchmark.subject import Network, Subject
from experiments.pipeline.draw import make_draw
from samplers.noise_levels import levels_at


def figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """Mode sample's batch of each sampler, against its NFE times the network's call."""
    for subject, names in preset.sampled:
        with measure.working(f"sample {subject}: making the network"):
            network = _network(subject)
        call, (x, _) = network.call(preset.n_samples), network.inputs(preset.n_samples)
        for name in names:
            with measure.working(f"sample {subject} {name}: compiling"):
                model = subject.pipeline(network.params, name, preset.n_steps)
                draw = make_draw(model, preset.n_samples)
                nfe = int(draw(0).nfe)
            parts = {"network": (measure.chained(call, x, nfe), nfe)}
            yield measure.over_parts("sample", str(subject), name, partial(draw, 0), parts, repeats)


@lru_cache(maxsize=1)
def _network(subject: Subject) -> Network:
    """The network that the samplers of one model share."""
    return subject.network()


def guidance_figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """EDM's sampler with guidance, against calls of the network and the critic's gradients."""
    title = f"guidance {preset.guided}"
    with measure.working(f"{title}: making the networks"):
        network, critic = preset.guided.network(), preset.critic.network()
    n, sde = preset.n_samples, network.model.sde
    sampler, shape = samplers.EDM(n_steps=preset.n_steps), (n, *network.shape)
    classes = jnp.arange(n) % preset.guided.config().data.num_classes

    def conditional(params, x, t, classes):
        return network.score(params, x, t, class_labels=classes)

    def log_ratio(params, x, t):
        return jnp.diff(critic.model.outputs(params)(x, t))[:, 0]

    @jax.jit
    def free(params, key):
        score_fn = samplers.guidance.classifier_free(partial(conditional, params), classes, 2.0)
        return sampler(key, sde, score_fn, shape).x

    @jax.jit
    def critical(params, critic_params, key):
        score_fn = samplers.guidance.discriminator(
            lambda x, t: conditional(params, x, t, classes), sde, partial(log_ratio, critic_params)
        )
        return sampler(key, sde, score_fn, shape).x

    slope = jax.jit(jax.grad(lambda x, t, params: log_ratio(params, x, t).sum()))
    call, key, p = jax.jit(conditional), jax.random.key(0), network.params
    (x, t), (x2, t2) = network.inputs(n), network.inputs(2 * n)

    def part(call, x, *arguments, times=sampler.nfe):
        return measure.chained(lambda x: call(x, *arguments), x, times), times

    one, both = partial(call, p), jnp.concatenate([classes, classes])
    gradient = part(slope, x, t, critic.params, times=n_guided(sampler, sde))
    wholes: dict[str, tuple[Run, dict[str, tuple[Run, int]]]] = {
        "classifier_free": (partial(free, p, key), {"network of two": part(one, x2, t2, both)}),
        "discriminator": (
            partial(critical, p, critic.params, key),
            {"network": part(one, x, t, classes), "gradient": gradient},
        ),
    }
    for name, (whole, parts) in wholes.items():
        yield measure.over_parts("guidance", str(preset.guided), name, whole, parts, repeats)


def n_guided(sampler: samplers.EDM, sde: sde_lib.SDE) -> int:
    """The number of steps at whose first level a discriminator guides by default."""
    low, high = levels_at(sde_lib.VP(), list(samplers.guidance.GUIDED_TIMES))
    first = sampler.levels(sde, *levels_at(sde, [sde.t_max, sde.t_min]))[:-1]
    return int(np.sum((low <= first) & (first <= high)))
