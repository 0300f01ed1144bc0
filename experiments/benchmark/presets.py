"""Presets of the benchmark: the models that it measures, and their sizes, on a CPU and a GPU."""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np

import samplers
from experiments.benchmark.subject import Subject
from experiments.build.components import specs

MAIN = ("predictor_corrector", "euler_maruyama", "heun", "probability_flow")
CLD_ONLY = ("symmetric_splitting",)
TRAINED_FOR = (*CLD_ONLY, *samplers.FEW_STEPS)
OTHERS = tuple(name for name in samplers.SAMPLERS if name not in (*MAIN, *TRAINED_FOR))


@dataclasses.dataclass(frozen=True)
class Preset:
    """The models that the benchmark measures, and their sizes.

    Attributes:
        subjects: models of the figures memory, train, data, likelihood and profile.
        sampled: models, and the names of the samplers that draw from them.
        networks: models whose calls and gradient steps are compared with the peak FLOP/s.
        guided: a model with classes, for classifier-free guidance and guidance by `critic`.
        critic: a discriminator.
        started: the experiment whose command is timed to its first step and picture.
        peer: a model with the network unet2d under VP, which other libraries have too.
        train_steps: steps in a run of the trainer.
        save_every: steps between checkpoints in the run that measures their cost.
        n_samples: batch size of sampling and of likelihoods.
        n_steps: steps of a sampler.
        matrix: side of two square matrices, whose product gives the peak FLOP/s.
        convolution: (images, side, channels) of a 3 x 3 convolution, which gives it if faster.
        random_images: number of random images that replace the data set; 0 keeps the config's.
    """

    subjects: tuple[Subject, ...]
    sampled: tuple[tuple[Subject, tuple[str, ...]], ...]
    networks: tuple[Subject, ...]
    guided: Subject
    critic: Subject
    started: Subject
    peer: Subject
    train_steps: int
    save_every: int
    n_samples: int
    n_steps: int
    matrix: int
    convolution: tuple[int, int, int]
    random_images: int = 0

    def parts(self, kind: str) -> dict[str, "Preset"]:
        """Presets of one model each, by name, for a kind of figures; of one sampler for "sample".

        One of them can fail without the others.
        """
        only = partial(dataclasses.replace, self)
        if kind in ("start", "peers"):
            return {str(self.started if kind == "start" else self.peer): self}
        if kind == "guidance":
            return {str(self.guided): self}
        if kind == "network":
            return {str(subject): only(networks=(subject,)) for subject in self.networks}
        if kind == "sample":
            return {
                f"{subject} {name}": only(sampled=((subject, (name,)),))
                for subject, names in self.sampled
                for name in names
            }
        return {str(subject): only(subjects=(subject,)) for subject in self.subjects}

    def with_data(self, folder: Path) -> "Preset":
        """The preset with random images in place of its data, if it asks for some.

        They are written to a file in the folder.
        """
        if not self.random_images:
            return self
        path, shape = folder / "images.npz", specs.data_shape(self.started.config())
        shape = (self.random_images, *shape)
        np.savez(path, images=np.random.RandomState(0).randint(256, size=shape, dtype=np.uint8))

        def changed(subject: Subject) -> Subject:
            return subject.having(("data.dataset", "npz"), ("data.path", str(path)))

        return dataclasses.replace(
            self,
            subjects=tuple(map(changed, self.subjects)),
            sampled=tuple((changed(subject), names) for subject, names in self.sampled),
            networks=tuple(map(changed, self.networks)),
            started=changed(self.started),
        )


_DIGITS = Subject("digits", "vp_score_sde")
_DIGITS_EDM = Subject("digits", "edm")
_PEER = Subject("digits", "vp_score_sde").having(
    ("model.name", "unet2d"),
    ("model.down_block_types", ("DownBlock2D", "AttnDownBlock2D")),
    ("model.up_block_types", ("AttnUpBlock2D", "UpBlock2D")),
)
_CIFAR10 = tuple(
    Subject("cifar10", variant, changes)
    for variant in ("ve_ncsnpp_continuous", "vp_ddpmpp_continuous")
    for changes in ((), (("model.dtype", "bfloat16"),))
)

PRESETS = {
    "cpu": Preset(
        subjects=(_DIGITS,),
        sampled=((_DIGITS, MAIN), (_DIGITS_EDM, OTHERS)),
        networks=(
            _DIGITS,
            Subject("cifar10", "ve_ncsnpp_continuous").having(("training.batch_size", 4)),
        ),
        guided=_DIGITS_EDM.having(("model.class_conditional", True)),
        critic=Subject("digits", "discriminator"),
        started=_DIGITS,
        peer=_PEER.having(("model.block_out_channels", (64, 128))),
        train_steps=400,
        save_every=100,
        n_samples=32,
        n_steps=25,
        matrix=2048,
        convolution=(16, 32, 128),
    ),
    "gpu": Preset(
        subjects=_CIFAR10,
        sampled=tuple((subject, MAIN) for subject in _CIFAR10),
        networks=_CIFAR10,
        guided=Subject("cifar10", "edm_ddpmpp_conditional"),
        critic=Subject("cifar10", "edm_discriminator"),
        started=_CIFAR10[0],
        peer=_PEER.having(("model.block_out_channels", (256, 512))),
        train_steps=100,
        save_every=50,
        n_samples=128,
        n_steps=25,
        matrix=8192,
        convolution=(128, 64, 512),
        random_images=50_000,
    ),
}
