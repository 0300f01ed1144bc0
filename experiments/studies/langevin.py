"""Langevin dynamics between distant modes, plain and annealed (Song & Ermon 2019, Section 3.2.2).

    python -m experiments.studies.langevin --output=langevin.png

Both panels sample the same mixture by its known score, with weights 0.2 and 0.8. Langevin dynamics
cannot cross the empty space between the modes: the shares of the modes stay those of the starts.
Annealed dynamics divides the samples while the noise still joins the modes.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import sde_lib
from experiments.runs import charts, pictures, progress
from experiments.studies import picture
from samplers import AnnealedLangevin, Start

MIXTURE = sde_lib.GaussianMixture((0.2, 0.8), ((-5.0, -5.0), (5.0, 5.0)), std=1.0)
SDE = sde_lib.VE(sigma_min=0.01, sigma_max=20.0)
HALF_WIDTH = 8.0
N_SAMPLES = 1000
N_PATHS = 6
N_FRAMES = 30
MESH_SIDE = 21
# Both take 1500 steps; those at t_min, where sigma is 0.01, have the size 0.1 in both.
PLAIN = AnnealedLangevin(n_levels=1, n_steps_each=1500, step_size=1000.0, denoise=False)
ANNEALED = AnnealedLangevin(n_levels=30, n_steps_each=50, step_size=0.1)


def run(output: Path) -> Path:
    """Samples both ways, prints the shares of samples in the upper mode, and draws the figure."""
    key, shape = jax.random.key(0), (N_SAMPLES, 2)
    uniform = jax.random.uniform(key, shape, minval=-HALF_WIDTH, maxval=HALF_WIDTH)
    starts = {
        "Langevin dynamics": (PLAIN, uniform),
        "annealed Langevin dynamics": (ANNEALED, SDE.prior_sample(key, shape)),
    }
    score_fn, panels = MIXTURE.score_fn(SDE), {}
    for name, (sampler, x) in progress.track(starts.items(), "sampling", "panel"):
        samples = sampler(key, SDE, score_fn, shape, n_frames=N_FRAMES, start=Start(x, SDE.t_max))
        share = jnp.mean(jnp.sum(samples.x, axis=1) > 0)
        title = f"{name}: {share:.0%} in the upper mode, of weight {MIXTURE.weights[1]:.0%}"
        print(title)
        panels[title] = np.concatenate([x[None], samples.path])
    ticks = np.linspace(-HALF_WIDTH, HALF_WIDTH, MESH_SIDE)
    mesh = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    field = np.asarray(score_fn(jnp.asarray(mesh), jnp.full(len(mesh), SDE.t_min)))
    about = pictures.provenance(mixture=str(MIXTURE), samplers=str((PLAIN, ANNEALED)))
    return charts.save_point_paths(output, panels, N_PATHS, mesh, field, HALF_WIDTH, about)


def main() -> None:
    """Runs the command."""
    picture.command("Draws Langevin dynamics, plain and annealed.", "langevin.png", run)


if __name__ == "__main__":
    main()
