"""Mode detect: measures how well a model's own probability flow detects its samples."""

import jax
import numpy as np

from experiments.commands.request import Request
from experiments.evaluation import detection
from experiments.pipeline import draw, show
from experiments.runs import card, charts, files, parts, pictures
from sde_lib.checks import check_at_least


def run(request: Request) -> None:
    """Prints the area under the ROC curve; saves the curve, and a table of each image's error.

    The real images are config.detect.n_images of the test set, at even distances. The same number
    of samples is drawn, as config.sampling says.

    Raises:
        ValueError: an impossible number of images or steps, or a model that cannot be used.
        FloatingPointError: a sample or its reconstruction is not finite.
    """
    options, model = request.config.detect, request.model()
    check_at_least(2, **{f"config.detect.{name}": options[name] for name in options})
    if not model.sde.is_scalar:
        raise ValueError(
            f"--mode=detect does not support the SDE {type(model.sde).__name__}, whose states are "
            "more than data: give a model with another SDE"
        )
    if model.decoder or model.super_resolution:
        raise ValueError(
            "--mode=detect works on images: it supports neither latent models nor cascades"
        )
    model.check_complete("mode detect")
    dataset, n = model.dataset(), options.n_images
    if n > len(dataset.test):
        raise ValueError(
            f"config.detect.n_images is {n}: it must be at most {len(dataset.test)}, the number of "
            "test images"
        )
    folder, step = request.folder / "evaluation" / str(model.step), model.step
    kept = parts.Parts(folder, "detect", [model.seed, model.identity()])

    def drawn() -> parts.Arrays:
        return {"images": model.scaling.to_grey(draw.draw_all(model, n)[0])}

    samples = kept(f"samples_{n}", drawn)["images"]
    rows = np.linspace(0, len(dataset.test) - 1, n).astype(int)
    test = dataset.test, model.conditions.from_data(dataset, "test")
    sets = {
        "test": jax.tree.map(lambda leaf: leaf[rows], test),
        "samples": (samples, model.sample_conditions(np.arange(n))),
    }
    errors = {
        name: detection.reconstruction_errors(model, values, options.n_steps, name)
        for name, values in sets.items()
    }
    found, n_steps = detection.auc(errors["test"], errors["samples"]), options.n_steps
    print(f"AUC {found} (step {step}: {n} samples, {n} of the test set, {n_steps} steps each way)")
    table = [(name, k, error) for name in errors for k, error in enumerate(errors[name].tolist())]
    card.update(request.folder, step, {"AUC of --mode=detect": str(found)})
    stem = show.stem(model, "detect")
    print(files.write_table(request.folder / f"{stem}.csv", ("set", "index", "rms"), table))
    path, curve = request.folder / "samples" / f"{stem}.png", detection.roc(*errors.values())
    about = pictures.provenance(**show.settings(model, n_images=n, n_steps=n_steps))
    print(charts.save_detection(path, curve, errors, f"AUC {found}", about))
