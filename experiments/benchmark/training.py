"""Training against bare gradient steps, its data against these, and the cost of checkpoints."""

from collections.abc import Iterator
from functools import partial

import jax

from experiments.benchmark import measure
from experiments.benchmark.measure import Figure
from experiments.benchmark.presets import Preset
from experiments.benchmark.programs import Bare, Trainer


def train_figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """The trainer against bare steps, and the trainer with many checkpoints against itself.

    The trainer saves as often as the config says; the other one every preset.save_every steps.
    """
    n = preset.train_steps
    for subject in preset.subjects:
        title = f"train {subject}"
        with measure.working(f"{title}: loading data"):
            trainer, bare = Trainer(subject.config()), Bare(subject)
        run = trainer.run
        measure.compiled(title, partial(run, 2, 1), partial(bare.run, 2))
        runs = {
            "trainer": partial(run, n, trainer.training.snapshot_freq_for_preemption),
            "checkpoints": partial(run, n, preset.save_every),
            "bare": partial(bare.run, n),
        }
        times = measure.in_turns(title, runs, repeats)
        for whole, part in (("trainer", "bare"), ("checkpoints", "trainer")):
            seconds = measure.medians({name: times[name] for name in (whole, part)})
            ratio = measure.ratio(times, whole, [part])
            yield Figure("train", str(subject), whole, ratio, seconds, repeats, {"steps": n})


def data_figures(preset: Preset, repeats: int) -> Iterator[Figure]:
    """Batches a second of data that live on the host, against those of bare steps."""
    n = preset.train_steps
    for subject in preset.subjects:
        title, config = f"data {subject}", subject.config()
        config.data.resident_bytes, config.training.steps_per_jit = 0, 1
        with measure.working(f"{title}: loading data"):
            trainer, bare = Trainer(config), Bare(subject)

        def pipeline(batches=trainer.batches):
            for _ in range(n):
                jax.block_until_ready(next(batches))

        measure.compiled(title, partial(bare.run, 1))
        runs = {"bare": partial(bare.run, n), "pipeline": pipeline}
        times = measure.in_turns(title, runs, repeats)
        seconds, ratio = measure.medians(times), measure.ratio(times, "bare", ["pipeline"])
        images = n * trainer.training.batch_size
        rates = {f"{name} images/s": images / taken for name, taken in seconds.items()}
        yield Figure("data", str(subject), "pipeline", ratio, seconds, repeats, rates)
