"""Small networks that learn classes of points: a model, and a guide model that errs more."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import sde_lib
from experiments.studies.guidance.tree import Tree
from models import NoiseModel, Preconditioning
from models.mlp import MLP
from sde_lib import SDE, noise_density, weighting

DROPOUT, BATCH, RATE = 0.2, 1024, 5e-3  # of labels; samples a step; Adam's, decayed to 0
SIGMA_DATA, MEAN, STD = 0.7, -2.0, 1.5  # of the points; of log noise levels in training

ConditionalScore = Callable[[Array, Array, Array], Array]
"""(x, t, class, -1 for none) -> score"""


class Size(NamedTuple):
    """The size of a network and of its training."""

    features: int
    blocks: int
    n_iters: int


def sizes(n_iters: int) -> tuple[Size, Size]:
    """The sizes of the model and of the guide model, which makes an eighth of the steps."""
    return Size(64, 3, n_iters), Size(32, 2, max(n_iters // 8, 1))


def train(sde: SDE, trees: Sequence[Tree], size: Size, seed: int) -> ConditionalScore:
    """A network of this size, trained on all classes and without one."""
    about = Preconditioning(sde, "edm", SIGMA_DATA, inputs=MLP.inputs)
    network = MLP(nf=size.features, num_res_blocks=size.blocks, num_classes=len(trees))
    model = NoiseModel(network, about)
    means = jnp.asarray(np.stack([each.mixture.means for each in trees]), jnp.float32)
    logits = jnp.log(jnp.asarray(np.stack([each.mixture.weights for each in trees]), jnp.float32))
    density = noise_density.create("log_normal", sde, MEAN, STD)
    weight = weighting.create("edm", SIGMA_DATA)
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, size.n_iters))

    def loss(params: Any, key: Array) -> Array:
        keys = jax.random.split(key, 5)
        labels = jax.random.randint(keys[0], (BATCH,), 0, len(trees))
        chosen = jax.random.categorical(keys[1], logits[labels])
        x0 = means[labels, chosen]
        x0 += trees[0].mixture.std * jax.random.normal(keys[2], x0.shape)
        known = jnp.where(jax.random.bernoulli(keys[3], DROPOUT, (BATCH,)), -1, labels)
        score_fn = model.score_fn(params, class_labels=known)
        options: Any = {"noise_density": density, "weighting": weight}
        errors, _ = sde_lib.denoising_score_matching(keys[4], sde, score_fn, x0, **options)
        return jnp.mean(errors)

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        params, state = carry
        change, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, change), state), None

    @jax.jit
    def run(key: Array) -> Any:
        params = network.init(key, jnp.zeros((1, 2)), jnp.ones(1), class_labels=jnp.zeros(1, int))
        carry = params["params"], optimizer.init(params["params"])
        return jax.lax.scan(step, carry, jax.random.split(key, size.n_iters))[0][0]

    params = run(jax.random.key(seed))
    return lambda x, t, labels: model.score_fn(params, class_labels=labels)(x, t)
