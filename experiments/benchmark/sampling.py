"""Sampling, over as many calls of the compiled network as it evaluates; guided too."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import samplers
import sde_lib
from experiments import build
from experiments.benchmark import measure
from experiments.benchmark.measure import Figure, Run
from experiments.benchmark.presets import Preset
from experiments.benchmark.subject import Network, Subject
from experiments.pipeline import sample
from experiments.tasks import classifier
from models.config import Config
from samplers.noise_levels import levels_at


def figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """Mode sample's batch of each sampler, over its NFE times the network's call."""
    for subject, names in preset.sampled:
        network = Network.of(subject.config())
        call, (x, _) = network.call(preset.n_samples), network.inputs(preset.n_samples)
        for name in names:
            config = sampling_config(preset, subject, name)
            draw = sample.make_draw(config, network.model, network.params, preset.n_samples)
            nfe = int(draw(0).nfe)
            parts = {"network": (measure.chained(call, x, nfe), nfe)}
            yield over_parts("sample", str(subject), name, partial(draw, 0), parts, repeats)


def sampling_config(preset: Preset, subject: Subject, name: str) -> Config:
    """With this sampler, of few steps."""
    config = subject.config()
    config.sampling.method, config.sampling.n_steps = name, preset.n_steps
    config.sampling.corrector = "langevin"
    return config


def guidance_figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """EDM's sampler, guided, over calls of the network, and of the discriminator's gradient."""
    network, n = Network.of(config := preset.guided.config()), preset.n_samples
    critic = Network.of(other := preset.critic.config())
    sde, sampler = network.sde, samplers.EDM(n_steps=preset.n_steps)
    classes, shape = jnp.arange(n) % config.data.num_classes, (n, *build.image_shape(config))

    def conditional(params, x, t, classes):
        return network.score(params, x, t, class_labels=classes)

    def log_ratio(params, x, t):
        logits = classifier.logits_fn(other, sde, critic.model, params)(x, t)
        return jnp.diff(logits)[:, 0]

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
        yield over_parts("guidance", str(preset.guided), name, whole, parts, repeats)


def n_guided(sampler: samplers.EDM, sde: sde_lib.SDE) -> int:
    """The steps at whose first level a discriminator guides by default."""
    low, high = levels_at(sde_lib.VP(), list(samplers.guidance.GUIDED_TIMES))
    first = sampler.levels(sde, *levels_at(sde, [sde.t_max, sde.t_min]))[:-1]
    return int(np.sum((low <= first) & (first <= high)))


def over_parts(
    kind: str,
    subject: str,
    name: str,
    whole: Run,
    parts: dict[str, tuple[Run, int]],
    repeats: int,
) -> Figure:
    """A whole over its parts, which are so many calls."""
    runs = {"whole": whole, **{name: part for name, (part, _) in parts.items()}}
    measure.compiled(*runs.values())
    times = measure.in_turns(runs, repeats)
    ratio, seconds = measure.ratio(times, "whole", parts), measure.medians(times)
    numbers: dict[str, Any] = {f"calls of {name}": n for name, (_, n) in parts.items()}
    return Figure(kind, subject, name, ratio, seconds, repeats, numbers)
