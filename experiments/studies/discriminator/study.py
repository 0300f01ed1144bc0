"""Mode study, config.study.name = "discriminator": what guidance by a discriminator gains.

    python -m experiments.main --config=configs/points.py:mixture --mode=study \\
        --config.study.name=discriminator

Without a run, data and model are mixtures of Gaussians, so that the optimal discriminator and all
gains (sde_lib/gain.py) are known: a table by the guidance weight.

With a run, and config.guidance.discriminator.run, it is the quality of that discriminator along its
training. Each of its checkpoints guides the model. The table and the picture have the gain of the
scores on test data, in nats, and the Fréchet and kernel distance of guided samples to the training
data. Step 0 is the model without guidance.
"""

import dataclasses

from experiments.build.components import diffusion
from experiments.commands.request import Request
from experiments.runs import charts, pictures
from experiments.runs import folder as folders
from experiments.studies.discriminator import mixtures, training
from experiments.studies.statistics import save_results
from experiments.studies.subject import check_not_empty
from sde_lib.checks import check_at_least, check_positive

DIGITS = ".4g"  # of the table


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the study, config.study.discriminator.

    Attributes:
        weights: of guidance, on mixtures.
        steps: checkpoints of the discriminator; () for all.
        solver: name of the solver that draws the guided samples.
        nfe: network evaluations a sample.
        n_samples: guided samples of each checkpoint.
        n_data: test samples that the gain is measured on, at most.
    """

    weights: tuple[float, ...]
    steps: tuple[int, ...]
    solver: str
    nfe: int
    n_samples: int
    n_data: int

    def __post_init__(self):
        field = "config.study.discriminator."
        check_not_empty("study.discriminator", weights=self.weights)
        for weight in self.weights:
            check_positive(or_zero=True, **{f"{field}weights": weight})
        counts = {f"{field}{name}": getattr(self, name) for name in ("n_samples", "n_data")}
        check_at_least(training.LEAST, **counts)


def run(request: Request) -> None:
    """Measures the gains; prints the table, and saves it.

    Raises:
        ValueError: an impossible option, or a run without a discriminator.
        FloatingPointError: a sample is not finite.
    """
    config, folder = request.config, request.folder
    options = Options(**config.study.discriminator.to_dict())
    if not folders.has_run(folder):
        sde = diffusion.sde(config)
        gains = mixtures.gains(sde, options.weights)
        save_results(folder / "discriminator_mixtures.jsonl", gains, DIGITS)
        return
    model, rows = training.measure(request, options)
    path = folder / f"discriminator_{model.step}_seed{model.seed}.jsonl"
    save_results(path, rows, DIGITS)
    about = pictures.provenance(config=config.to_dict(), seed=model.seed, step=model.step)
    print(charts.save_lines(path.with_suffix(".png"), training.panels(rows), 2, about, log=False))
