"""Mode sample: draws samples of a trained model; saves pictures, and files of them if asked."""

from experiments.commands.request import Request
from experiments.pipeline import show


def run(request: Request) -> None:
    """Draws config.sampling.n_samples samples, and the way of a few from noise to data."""
    options, model = request.config.sampling, request.model()
    print(show.save_samples(model, options.n_samples))
    print(show.save_paths(model))
    if options.single or options.arrays:
        for path in show.save_files(model, options.n_samples, options.single, options.arrays):
            print(path)
