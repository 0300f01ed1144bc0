"""Mode sample: draws samples of a trained model; saves pictures, and files of them if asked."""

import logging

from experiments.commands.request import Request
from experiments.pipeline import draw, show
from experiments.runs import hosts

LOG = logging.getLogger(__name__)


def run(request: Request) -> None:
    """Draws samples; saves their picture, and that of a few samples' paths from noise to data.

    There are config.sampling.n_samples. config.sampling.single saves each image as a PNG file,
    config.sampling.arrays all in one .npz file, which config.sampling.log_prob makes too. Those
    that are there already are not drawn again.

    Raises:
        ValueError: no trained model, or options that it cannot have.
        FloatingPointError: a sample is not finite.
    """
    options, model = request.config.sampling, request.model()
    n, single, arrays = options.n_samples, options.single, options.arrays or options.log_prob
    made = show.made(model, n, single, arrays)
    if hosts.agree(bool(made)):
        LOG.info("there already, of the same model and settings (delete them to draw again):")
        print("\n".join(map(str, made)))
        return
    drawn = draw.draw_all(model, n)
    print(show.save_samples(model, n, drawn))
    print(show.save_paths(model))
    for path in show.save_files(model, n, single, arrays, drawn):
        print(path)
