"""A linear autoencoder in closed form, in place of a trained one."""

import flax.linen as nn
import jax.numpy as jnp

from experiments.data import latents
from experiments.data.scaling import Scaling
from experiments.runs import devices

SCALE = 0.3  # the encoder's latents are means of 2 x 2 pixels times this


class Means(nn.Module):
    """A linear autoencoder; it is exact for images that are constant on squares of 2 x 2."""

    @nn.compact
    def __call__(self, x, encodes=True):
        scale = self.param("scale", nn.initializers.constant(SCALE), ())
        if encodes:
            return scale * nn.avg_pool(x, (2, 2), strides=(2, 2)), None
        return jnp.repeat(jnp.repeat(x / scale, 2, axis=1), 2, axis=2)

    def encode(self, x):
        return self(x)

    def decode(self, z):
        return self(z, encodes=False)


def make_autoencoder(folder, scale=SCALE, step=1):
    mesh, params = devices.make_mesh(), {"scale": jnp.asarray(scale)}
    return latents.Autoencoder(Means(), params, step, folder / "autoencoder", Scaling(17), mesh, 32)
